//! What fills an entry up to its size. Never an LF, and nothing that could pass for a token.

use crate::payload::Text;
use crate::tokens::Random;

const METHODS: [&str; 4] = ["GET", "GET", "POST", "PUT"];
const PATHS: [&str; 6] = ["/", "/api/v1/items", "/login", "/static/app.js", "/search?q=disk", "/health"];
const CODES: [u16; 6] = [200, 200, 200, 304, 404, 500];
const LEVELS: [&str; 4] = ["debug", "info", "info", "warn"];
const SERVICES: [&str; 4] = ["checkout", "search", "billing", "gateway"];

/// The text of the given length for a line; `ordinal` chooses the line of a file, which has its own length.
pub(super) fn fill(text: &Text, length: usize, ordinal: usize, random: &mut Random) -> Vec<u8> {
    match text {
        Text::Random => words(length, random),
        Text::Json => json(length, random),
        Text::Apache => apache(length, random),
        Text::Lines(lines) => lines[ordinal % lines.len()].clone().into_bytes(),
    }
}

/// Words of up to 12 letters and digits.
fn words(length: usize, random: &mut Random) -> Vec<u8> {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz012345";
    let mut text = vec![b' '; length];
    for word in text.chunks_mut(13) {
        let letters = word.len().min(12);
        let mut bits = random.next_u64();
        for letter in &mut word[..letters] {
            *letter = LETTERS[(bits % 32) as usize];
            bits /= 32;
        }
    }
    if let Some(last) = text.last_mut().filter(|last| **last == b' ') {
        *last = b'.';
    }
    text
}

/// An object whose message takes what is left; too short for that, it is cut off.
fn json(length: usize, random: &mut Random) -> Vec<u8> {
    let head = format!(
        r#"{{"level":"{}","service":"{}","status":{},"duration_us":{},"message":""#,
        choose(&LEVELS, random),
        choose(&SERVICES, random),
        choose(&CODES, random),
        random.below(90_000),
    );
    wrap(length, head.as_bytes(), br#""}"#, random)
}

/// A line in the combined format whose user agent takes what is left; too short for that, it is cut off.
fn apache(length: usize, random: &mut Random) -> Vec<u8> {
    let head = format!(
        r#"10.{}.{}.{} - - [23/Nov/2026:14:{:02}:{:02} +0000] "{} {} HTTP/1.1" {} {} "-" "Mozilla/5.0 "#,
        random.below(256),
        random.below(256),
        random.below(256),
        random.below(60),
        random.below(60),
        choose(&METHODS, random),
        choose(&PATHS, random),
        choose(&CODES, random),
        random.below(50_000),
    );
    wrap(length, head.as_bytes(), br#"""#, random)
}

fn wrap(length: usize, head: &[u8], tail: &[u8], random: &mut Random) -> Vec<u8> {
    let inner = length.saturating_sub(head.len() + tail.len());
    let mut text = [head, &words(inner, random), tail].concat();
    text.truncate(length);
    text
}

fn choose<T: Copy>(list: &[T], random: &mut Random) -> T {
    list[random.below(list.len() as u64) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_the_length_asked_for() {
        let mut random = Random::new(5);
        for length in [0, 1, 5, 13, 60, 120, 400, 70_000] {
            for text in [Text::Random, Text::Json, Text::Apache] {
                let filled = fill(&text, length, 0, &mut random);
                assert_eq!(filled.len(), length);
                assert!(!filled.contains(&b'\n'));
            }
        }
    }

    #[test]
    fn json_is_json() {
        let text = fill(&Text::Json, 300, 0, &mut Random::new(1));
        let object: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert!(object["message"].as_str().unwrap().len() > 100);
    }

    #[test]
    fn lines_of_a_file_come_in_turn() {
        let text = Text::Lines(["one".to_owned(), "two".to_owned()].into());
        let mut random = Random::new(1);
        assert_eq!(fill(&text, 0, 3, &mut random), b"two");
    }
}
