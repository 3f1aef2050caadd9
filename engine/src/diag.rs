//! The engine's own log, on stderr: one line each, as text or as a JSON object. Nothing per line of a client, no token.
//!
//! ```text
//! 2026-11-23T14:00:00.000000Z warn accept failed, trying again error="Too …"      time, level, subject, key=value …
//! {"time":"2026-11-23T14:00:00.000000Z","level":"warn","message":"accept failed, trying again","error":"Too …"}
//! ```
//! A line of [`log`] may be held back when its kind, which is its level and subject, comes too often; how many were is
//! said as soon as the kind has been quiet, or at the end. Lines of [`say`] are start and stop, and always come. Whole
//! tokens are shortened in both, wherever they come from.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;

use crate::limits::{LOG_KINDS_MAX, LOG_LINES_PER_KIND, LOG_WINDOW};
use crate::wire::token::shorten_tokens;

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Something is lost or stands still.
    Error,
    /// Something needs the operator's eye.
    Warn,
    /// Start, stop, and what changed.
    Info,
    /// What happened on the way.
    Debug,
}

impl Level {
    /// Every level, from silent to talkative.
    pub const ALL: [Self; 4] = [Self::Error, Self::Warn, Self::Info, Self::Debug];

    const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|level| level.name() == text);
        known.ok_or_else(|| format!("{text} is no log level; give error, warn, info or debug"))
    }
}

/// What a line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Format {
    /// For people: `time level subject key=value …`.
    Text,
    /// For programs: an object with time, level, message and the pairs.
    Json,
}

static LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);
static FORMAT: AtomicU8 = AtomicU8::new(Format::Text as u8);
static LIMITER: Mutex<Limiter> = Mutex::new(Limiter { kinds: BTreeMap::new() });

/// Says no more than `level` from now on, in this format.
pub fn configure(level: Level, format: Format) {
    LEVEL.store(level as u8, Ordering::Relaxed);
    FORMAT.store(format as u8, Ordering::Relaxed);
}

/// Writes a line about something that may happen again and again: not more often than the limit allows.
pub fn log(level: Level, message: fmt::Arguments<'_>) {
    if is_silent(level) {
        return;
    }
    let message = message.to_string();
    let mut limiter = LIMITER.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Timestamp::now();
    limiter.take_overdue(now).iter().for_each(say_held_back);
    let admitted = limiter.admit(level, &parts(&message).0, now);
    drop(limiter);
    if admitted {
        write_line(level, &message);
    }
}

/// Writes a line about the engine's own life: start, stop, and what an operator asked for.
pub fn say(level: Level, message: fmt::Arguments<'_>) {
    if !is_silent(level) {
        write_line(level, &message.to_string());
    }
}

/// Counts lines that nobody could write as held back, under this subject.
pub fn hold_back(level: Level, subject: &str, lines: u64) {
    if lines > 0 && !is_silent(level) {
        let mut limiter = LIMITER.lock().unwrap_or_else(PoisonError::into_inner);
        limiter.hold_back(level, subject, lines, Timestamp::now());
    }
}

/// Says how many lines were held back of kinds that have been quiet for a while. For whoever writes most lines, when there
/// is nothing to write.
pub fn catch_up() {
    let mut limiter = LIMITER.lock().unwrap_or_else(PoisonError::into_inner);
    limiter.take_overdue(Timestamp::now()).iter().for_each(say_held_back);
}

/// Says what is still held back: nothing more will come.
pub fn finish() {
    let mut limiter = LIMITER.lock().unwrap_or_else(PoisonError::into_inner);
    limiter.take_all().iter().for_each(say_held_back);
}

/// A value that may hold blanks, for `key=value`: as a JSON string.
pub fn quoted(value: &impl fmt::Display) -> String {
    serde_json::Value::from(value.to_string()).to_string()
}

fn is_silent(level: Level) -> bool {
    level as u8 > LEVEL.load(Ordering::Relaxed)
}

fn say_held_back(held: &HeldBack) {
    let HeldBack { level, subject, lines } = held;
    write_line(*level, &format!("held back like_this={} lines={lines}", quoted(subject)));
}

/// That nobody reads the log any more is no reason to stop, or to panic as `eprintln` would.
fn write_line(level: Level, message: &str) {
    let message = shorten_tokens(message);
    let time = Timestamp::now();
    if FORMAT.load(Ordering::Relaxed) == Format::Json as u8 {
        put_line(&json(time, level, &message));
    } else {
        put_line(&format!("{time:.6} {level} {message}"));
    }
}

/// One line on stderr, in one write; there is nobody to tell if that fails.
pub fn put_line(line: &str) {
    let _nobody_reads_it = io::stderr().write_all(format!("{line}\n").as_bytes());
}

// The rate limit.

/// Lines by kind in the current window of each.
#[derive(Debug)]
struct Limiter {
    kinds: BTreeMap<(u8, String), Window>,
}

#[derive(Debug)]
struct Window {
    level: Level,
    from: Timestamp,
    lines: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct HeldBack {
    level: Level,
    subject: String,
    lines: u64,
}

impl Limiter {
    /// Whether a line of this kind may be written now.
    fn admit(&mut self, level: Level, subject: &str, now: Timestamp) -> bool {
        let window = self.window(level, subject, now);
        window.lines += 1;
        window.lines <= LOG_LINES_PER_KIND
    }

    fn hold_back(&mut self, level: Level, subject: &str, lines: u64, now: Timestamp) {
        let window = self.window(level, subject, now);
        window.lines = window.lines.max(LOG_LINES_PER_KIND) + lines;
    }

    /// The current window of a kind. Kinds beyond the limit share one.
    fn window(&mut self, level: Level, subject: &str, now: Timestamp) -> &mut Window {
        let key = (level as u8, subject.to_owned());
        let known = self.kinds.len() < LOG_KINDS_MAX || self.kinds.contains_key(&key);
        let key = if known { key } else { (level as u8, "other lines".to_owned()) };
        self.kinds.entry(key).or_insert(Window { level, from: now, lines: 0 })
    }

    /// Ends the windows that are over, and gives those that held something back.
    fn take_overdue(&mut self, now: Timestamp) -> Vec<HeldBack> {
        // A clock that was set back ends them too.
        self.take(|window| !(window.from..window.from + LOG_WINDOW).contains(&now))
    }

    fn take_all(&mut self) -> Vec<HeldBack> {
        self.take(|_| true)
    }

    fn take(&mut self, is_over: impl Fn(&Window) -> bool) -> Vec<HeldBack> {
        let over = self.kinds.extract_if(.., |_, window| is_over(window));
        over.filter(|(_, window)| window.lines > LOG_LINES_PER_KIND)
            .map(|((_, subject), Window { level, lines, .. })| HeldBack {
                level,
                subject,
                lines: lines - LOG_LINES_PER_KIND,
            })
            .collect()
    }
}

// The grammar of a line.

/// A line taken apart: the words that are no pairs, and the pairs.
fn parts(message: &str) -> (String, Vec<(&str, Cow<'_, str>)>) {
    let (mut words, mut pairs) = (Vec::new(), Vec::new());
    let mut rest = message.trim_start();
    while !rest.is_empty() {
        if let Some((key, value)) = pair(rest) {
            let (value, behind) = value_of(value);
            pairs.push((key, value));
            rest = behind.trim_start();
        } else {
            let (word, behind) = rest.split_at(rest.find(' ').unwrap_or(rest.len()));
            words.push(word);
            rest = behind.trim_start();
        }
    }
    (words.join(" "), pairs)
}

/// `key=value` at the start of the text: the key, and the value with all that follows.
fn pair(text: &str) -> Option<(&str, &str)> {
    let (key, value) = text.split_once('=')?;
    let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || matches!(byte, b'_' | b'.'));
    is_key.then_some((key, value))
}

/// A value, and what stands behind it.
fn value_of(text: &str) -> (Cow<'_, str>, &str) {
    let mut quoted = serde_json::Deserializer::from_str(text).into_iter::<String>();
    if text.starts_with('"')
        && let Some(Ok(value)) = quoted.next()
    {
        return (Cow::Owned(value), &text[quoted.byte_offset()..]);
    }
    let (value, behind) = text.split_at(text.find(' ').unwrap_or(text.len()));
    (Cow::Borrowed(value), behind)
}

fn json(time: Timestamp, level: Level, message: &str) -> String {
    let (words, pairs) = parts(message);
    let mut line = format!("{{\"time\":\"{time:.6}\",\"level\":\"{level}\",\"message\":{}", quoted(&words));
    for (key, value) in pairs {
        let is_number = value.parse::<u64>().is_ok_and(|number| number.to_string() == value);
        let value = if is_number { value.into_owned() } else { quoted(&value) };
        write!(line, ",\"{key}\":{value}").expect("a string takes all that its memory takes");
    }
    line + "}"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_names() {
        for level in Level::ALL {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        assert!("loud".parse::<Level>().is_err());
    }

    #[test]
    fn json_has_the_pairs_as_fields() {
        let time = Timestamp::from_second(1_700_000_000).unwrap();
        let error = quoted(&"a \"b\" = \u{1b}c (os error 5)");
        let line =
            json(time, Level::Warn, &format!("accept failed, again error={error} seen=3 rejected.cut=007 reason=x"));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        let expected = serde_json::json!({
            "time": "2023-11-14T22:13:20.000000Z", "level": "warn", "message": "accept failed, again",
            "error": "a \"b\" = \u{1b}c (os error 5)", "seen": 3, "rejected.cut": "007", "reason": "x",
        });
        assert_eq!(value, expected);
        let plain: serde_json::Value = serde_json::from_str(&json(time, Level::Info, "ready")).unwrap();
        assert_eq!(plain["message"], "ready");
        let broken: serde_json::Value = serde_json::from_str(&json(time, Level::Info, "a=\"b c K=1 = d=")).unwrap();
        assert_eq!((&broken["message"], &broken["a"], &broken["d"]), (&"c K=1 =".into(), &"\"b".into(), &"".into()));
    }

    #[test]
    fn a_kind_that_comes_too_often_is_held_back_and_counted() {
        let mut limiter = Limiter { kinds: BTreeMap::new() };
        let start = Timestamp::now();
        let admitted = (0..LOG_LINES_PER_KIND + 5).filter(|_| limiter.admit(Level::Warn, "loud", start)).count();
        assert_eq!(admitted as u64, LOG_LINES_PER_KIND);
        assert!(limiter.admit(Level::Error, "loud", start) && limiter.admit(Level::Warn, "other", start));
        assert_eq!(limiter.take_overdue(start), []);
        let held = HeldBack { level: Level::Warn, subject: "loud".to_owned(), lines: 5 };
        assert_eq!(limiter.take_overdue(start + LOG_WINDOW), [held]);
        assert!(limiter.admit(Level::Warn, "loud", start + LOG_WINDOW));
        limiter.hold_back(Level::Warn, "loud", 3, start + LOG_WINDOW);
        limiter.hold_back(Level::Warn, "never written", 4, start);
        let held = limiter.take_all().into_iter().map(|held| (held.subject, held.lines));
        assert_eq!(held.collect::<Vec<_>>(), [("loud".to_owned(), 3), ("never written".to_owned(), 4)]);
    }

    #[test]
    fn kinds_are_bounded() {
        let mut limiter = Limiter { kinds: BTreeMap::new() };
        let start = Timestamp::now();
        for kind in 0..10 * LOG_KINDS_MAX {
            limiter.admit(Level::Warn, &kind.to_string(), start);
        }
        assert_eq!(limiter.kinds.len(), LOG_KINDS_MAX + 1);
        let held: u64 = limiter.take_all().iter().map(|held| held.lines).sum();
        assert_eq!(held, (9 * LOG_KINDS_MAX) as u64 - LOG_LINES_PER_KIND);
    }
}
