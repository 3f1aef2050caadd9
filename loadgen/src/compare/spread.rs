//! Whether two sets of repeats differ by more than their own spread: a permutation test over all measures at once.
//!
//! If A and B were the same program, any other way to deal the runs to two sets would have been as likely. So each measure's
//! difference, in units of the spread, is compared with the largest one among all measures under each other deal
//! (Westfall and Young's maxT): with however many measures, in one of twenty pairs of equals at most something is called
//! different at [`ALPHA`]. Which distribution the noise has does not matter, nor how measures depend on each other.

use crate::tokens::Random;

/// How often equals may be called different.
pub const ALPHA: f64 = 0.05;
/// More ways to deal than this are sampled.
const DEALS_MAX: usize = 20_000;
/// Spreads below this part of a value are as good as none.
const SPREAD_MIN: f64 = 1e-9;

/// The measures of one run, as logarithms: a difference is then a part, and the noise alike in both directions.
pub type Measures = Vec<f64>;

/// For each measure, how likely a difference as large as this one would be among equals; `None` if there are too few runs
/// to ever tell.
#[must_use]
pub fn p_values(a: &[Measures], b: &[Measures]) -> Option<Vec<f64>> {
    let runs: Vec<&Measures> = a.iter().chain(b).collect();
    let deals = deals(runs.len(), a.len());
    // The deal itself and, with sets of one size, its mirror image are always as extreme.
    #[expect(clippy::cast_precision_loss, reason = "at most twenty thousand")]
    let (all, mirrored) = (deals.len() as f64, if a.len() == b.len() { 2.0 } else { 1.0 });
    if a.is_empty() || b.is_empty() || mirrored / all > ALPHA {
        return None;
    }
    let measures = runs[0].len();
    let observed: Vec<f64> = (0..measures).map(|measure| distance(&runs, measure, &deals[0])).collect();
    let mut exceeded = vec![0.0; measures];
    for deal in &deals {
        let largest = (0..measures).map(|measure| distance(&runs, measure, deal)).fold(0.0, f64::max);
        for (exceeded, observed) in exceeded.iter_mut().zip(&observed) {
            // Sums in another order differ in their last digits.
            *exceeded += f64::from(u8::from(largest >= observed * (1.0 - 1e-9)));
        }
    }
    Some(exceeded.into_iter().map(|exceeded| exceeded / all).collect())
}

/// How far the medians of both sets are apart, in units of how far their runs lie from them. Neither cares much for a
/// single run that a neighbour spoiled.
fn distance(runs: &[&Measures], measure: usize, is_first: &[bool]) -> f64 {
    let of = |wanted| {
        let values =
            runs.iter().zip(is_first).filter(|(_, is_first)| **is_first == wanted).map(|(run, _)| run[measure]);
        let values: Vec<f64> = values.collect();
        let middle = super::median(&values);
        (middle, values.iter().map(|value| (value - middle).abs()).sum::<f64>())
    };
    let (a, b) = (of(true), of(false));
    (b.0 - a.0).abs() / (a.1 + b.1).max(SPREAD_MIN)
}

/// Ways to deal runs to two sets, the actual one first: all of them if they are few, else a sample that is always the same.
fn deals(runs: usize, first: usize) -> Vec<Vec<bool>> {
    let actual: Vec<bool> = (0..runs).map(|run| run < first).collect();
    let mut deals = vec![actual.clone()];
    let mut deal = actual.clone();
    while deals.len() <= DEALS_MAX && previous_permutation(&mut deal) {
        deals.push(deal.clone());
    }
    if deals.len() <= DEALS_MAX {
        return deals;
    }
    deals.truncate(1);
    let mut random = Random::new(0);
    while deals.len() < DEALS_MAX {
        let mut deal = actual.clone();
        for at in (1..runs).rev() {
            deal.swap(at, random.below(at as u64 + 1) as usize);
        }
        deals.push(deal);
    }
    deals
}

/// The arrangement before this one; begun with the last, it comes to each once.
fn previous_permutation(deal: &mut [bool]) -> bool {
    let Some(at) = (1..deal.len()).rev().find(|at| deal[at - 1] && !deal[*at]) else { return false };
    let smaller = (at..deal.len()).rev().find(|other| !deal[*other]).unwrap_or(at);
    deal.swap(at - 1, smaller);
    deal[at..].reverse();
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_deal_comes_once() {
        let all = deals(10, 5);
        let different: std::collections::BTreeSet<_> = all.iter().cloned().collect();
        assert_eq!((all.len(), different.len()), (252, 252));
        assert!(all.iter().all(|deal| deal.iter().filter(|is_first| **is_first).count() == 5));
        assert_eq!(deals(30, 15).len(), DEALS_MAX);
    }

    #[test]
    fn few_runs_cannot_tell() {
        let runs = |values: &[f64]| values.iter().map(|value| vec![*value]).collect::<Vec<_>>();
        assert_eq!(p_values(&runs(&[1.0, 1.1, 1.2]), &runs(&[2.0, 2.1, 2.2])), None);
        assert_eq!(p_values(&runs(&[1.0]), &[]), None);
        let p = p_values(&runs(&[1.0, 1.1, 1.2, 1.3]), &runs(&[2.0, 2.1, 2.2, 2.3])).unwrap()[0];
        assert!((p - 2.0 / 70.0).abs() < 1e-9, "{p}");
        // What never varies never differs.
        assert_eq!(p_values(&runs(&[1.0; 5]), &runs(&[1.0; 5])), Some(vec![1.0]));
    }
}
