//! Whether two sets of repeats differ by more than their own spread: a permutation test over all measures at once.
//!
//! If A and B were the same program, any other way to deal the runs to two sets would have been as likely. So each measure's
//! difference, in units of the spread, is compared with the largest one among all measures under each other deal
//! (Westfall and Young's maxT): with however many measures, in one of twenty pairs of equals at most something is called
//! different at [`ALPHA`]. Which distribution the noise has does not matter, nor how measures depend on each other.
//!
//! | runs | may be dealt otherwise | a measure's difference |
//! | --- | --- | --- |
//! | in turns: one of A and one of B, and again … | only the two of a turn with each other | Wilcoxon's signed ranks of the turns' differences |
//! | in another order | all | of the medians, by how far the runs lie from them |
//!
//! In turns, what the machine does otherwise happens to both, and is no spread: many short turns tell more than few long
//! runs, and most if the two of a turn run at once.

use super::median;
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
/// to ever tell. In turns, the first of A and the first of B are neighbours, and so on.
#[must_use]
pub fn p_values(a: &[Measures], b: &[Measures], in_turns: bool) -> Option<Vec<f64>> {
    if a.is_empty() || b.is_empty() {
        return None;
    }
    debug_assert!(!in_turns || a.len() == b.len());
    let mut random = Random::new(0);
    let measures = a[0].len();
    let distances: Vec<Vec<f64>> = if in_turns {
        let ranks: Vec<_> = (0..measures).map(|measure| signed_ranks(a, b, measure)).collect();
        let distance = |flips: &Vec<bool>| ranks.iter().map(|ranks| rank_sum(ranks, flips).abs()).collect();
        flips(a.len(), &mut random).iter().map(distance).collect()
    } else {
        let runs: Vec<&Measures> = a.iter().chain(b).collect();
        let distance = |deal: &Vec<bool>| (0..measures).map(|measure| distance(&runs, measure, deal)).collect();
        deals(runs.len(), a.len(), &mut random).iter().map(distance).collect()
    };
    // The deal itself and, with sets of one size, its mirror image are always as extreme.
    #[expect(clippy::cast_precision_loss, reason = "at most twenty thousand")]
    let (all, mirrored) = (distances.len() as f64, if a.len() == b.len() { 2.0 } else { 1.0 });
    if mirrored / all > ALPHA {
        return None;
    }
    let mut exceeded = vec![0.0; measures];
    for deal in &distances {
        let largest = deal.iter().copied().fold(0.0, f64::max);
        for (exceeded, observed) in exceeded.iter_mut().zip(&distances[0]) {
            // Sums in another order differ in their last digits.
            *exceeded += f64::from(u8::from(largest >= observed * (1.0 - 1e-9)));
        }
    }
    Some(exceeded.into_iter().map(|exceeded| exceeded / all).collect())
}

/// By how much B differs from A, as a logarithm: of runs in turns the median of the averages of any two of their differences
/// (Hodges and Lehmann's), which belongs to the signed ranks; else the difference of the medians.
#[must_use]
pub fn shift(a: &[f64], b: &[f64], in_turns: bool) -> f64 {
    if !in_turns {
        return median(b) - median(a);
    }
    let differences: Vec<_> = a.iter().zip(b).map(|(a, b)| b - a).collect();
    let averages = |(at, one): (usize, &f64)| {
        let one = *one;
        differences[at..].iter().map(move |other| f64::midpoint(one, *other))
    };
    median(&differences.iter().enumerate().flat_map(averages).collect::<Vec<_>>())
}

/// Of each turn's difference its rank by size among all, with its sign; equal sizes share the rank in the middle.
#[expect(clippy::cast_precision_loss, reason = "ranks are small")]
fn signed_ranks(a: &[Measures], b: &[Measures], measure: usize) -> Vec<f64> {
    let differences: Vec<_> = a.iter().zip(b).map(|(a, b)| b[measure] - a[measure]).collect();
    let rank = |difference: &f64| {
        let below = differences.iter().filter(|other| other.abs() < difference.abs()).count();
        let same = differences.iter().filter(|other| other.abs() <= difference.abs()).count() - below;
        let sign = if *difference == 0.0 { 0.0 } else { difference.signum() };
        sign * (below as f64 + f64::midpoint(same as f64, 1.0))
    };
    differences.iter().map(rank).collect()
}

fn rank_sum(ranks: &[f64], flips: &[bool]) -> f64 {
    ranks.iter().zip(flips).map(|(rank, is_flipped)| if *is_flipped { -rank } else { *rank }).sum()
}

/// How far the medians of both sets are apart, in units of how far their runs lie from them. Neither cares much for a
/// single run that a neighbour spoiled.
fn distance(runs: &[&Measures], measure: usize, is_first: &[bool]) -> f64 {
    let of = |wanted| {
        let values =
            runs.iter().zip(is_first).filter(|(_, is_first)| **is_first == wanted).map(|(run, _)| run[measure]);
        let values: Vec<f64> = values.collect();
        let middle = median(&values);
        (middle, values.iter().map(|value| (value - middle).abs()).sum::<f64>())
    };
    let (a, b) = (of(true), of(false));
    (b.0 - a.0).abs() / (a.1 + b.1).max(SPREAD_MIN)
}

/// Which turns are dealt the other way round, none first: all ways if they are few, else a sample that is always the same.
fn flips(turns: usize, random: &mut Random) -> Vec<Vec<bool>> {
    let actual = vec![false; turns];
    if turns < usize::BITS as usize && 1 << turns <= DEALS_MAX {
        return (0..1_usize << turns).map(|way| (0..turns).map(|turn| way >> turn & 1 == 1).collect()).collect();
    }
    let sample = (1..DEALS_MAX).map(|_| (0..turns).map(|_| random.below(2) == 1).collect());
    std::iter::once(actual).chain(sample).collect()
}

/// Ways to deal runs to two sets, the actual one first: all of them if they are few, else a sample that is always the same.
fn deals(runs: usize, first: usize, random: &mut Random) -> Vec<Vec<bool>> {
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
        let all = deals(10, 5, &mut Random::new(0));
        let different: std::collections::BTreeSet<_> = all.iter().cloned().collect();
        assert_eq!((all.len(), different.len()), (252, 252));
        assert!(all.iter().all(|deal| deal.iter().filter(|is_first| **is_first).count() == 5));
        assert_eq!(deals(30, 15, &mut Random::new(0)).len(), DEALS_MAX);
    }

    #[test]
    fn few_runs_cannot_tell() {
        let runs = |values: &[f64]| values.iter().map(|value| vec![*value]).collect::<Vec<_>>();
        assert_eq!(p_values(&runs(&[1.0, 1.1, 1.2]), &runs(&[2.0, 2.1, 2.2]), false), None);
        assert_eq!(p_values(&runs(&[1.0]), &[], false), None);
        let p = p_values(&runs(&[1.0, 1.1, 1.2, 1.3]), &runs(&[2.0, 2.1, 2.2, 2.3]), false).unwrap()[0];
        assert!((p - 2.0 / 70.0).abs() < 1e-9, "{p}");
        // What never varies never differs.
        assert_eq!(p_values(&runs(&[1.0; 5]), &runs(&[1.0; 5]), false), Some(vec![1.0]));
    }

    #[test]
    fn in_turns_the_machine_is_no_spread() {
        let runs = |values: &[f64]| values.iter().map(|value| vec![*value]).collect::<Vec<_>>();
        // It is as fast as it pleases, and B always a little slower.
        let a = [1.0, 3.0, 2.0, 5.0, 4.0, 7.0];
        let b = a.map(|value| value - 0.1 - value / 100.0);
        let p = |in_turns| p_values(&runs(&a), &runs(&b), in_turns).unwrap()[0];
        assert!((p(true) - 2.0 / 64.0).abs() < 1e-9 && p(false) > 0.5, "{} {}", p(true), p(false));
        assert!((shift(&a, &b, true) + 0.135).abs() < 0.01, "{}", shift(&a, &b, true));
        // Five turns deal in 32 ways, two of them as extreme as can be: more than one in twenty.
        assert_eq!(p_values(&runs(&a[..5]), &runs(&b[..5]), true), None);
        // Signs that even out are no difference, and what never varies never differs.
        let mixed = [1.1, 2.9, 2.2, 4.8, 4.3, 6.7];
        assert!(p_values(&runs(&a), &runs(&mixed), true).unwrap()[0] > 0.5);
        assert_eq!(p_values(&runs(&a), &runs(&a), true), Some(vec![1.0]));
        assert_eq!(flips(30, &mut Random::new(0)).len(), DEALS_MAX);
    }
}
