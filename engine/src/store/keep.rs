//! What becomes of sealed segments: indexed whole, then compressed, then deleted. For one thread of the control side.
//!
//! ```text
//!  <base>.log ─► index complete ─► <base>.log.zst.tmp ─► synced, read back, compared ─► <base>.log.zst ─► .log goes
//!                                                                          deleted, oldest first ◄─ too many, too old
//! ```
//! Before a segment or its text goes, the shard that owns the log records that, and the record is on the disk
//! ([`Ledger`]): else a recovery would miss what nobody has lost.
//!
//! Invariants: the newest segment of a log is never touched, for it holds the log's offset; a name goes only when what
//! replaces it is on the disk; the oldest goes first; every step can be repeated, so that a crash in the middle only means to start again. What
//! a crash left behind is finished or removed when its log is looked at.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::segment_file::{Packer, SegmentFile, same_bytes};
use super::{CHUNK_BYTES, LogFiles, chunk_of, file_error};
use crate::error::FileError;
use crate::limits::KEEP_RETRY;
use crate::segment::{Offset, Position, index_name, packed_name, packing_name, segment_name};
use crate::shard::Removal;
use crate::sys::file::{Access, Dir};
use crate::sys::{DataDir, index_file};
use crate::wire::Token;

/// What is to become of sealed segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// They are compressed this long after their last write; `None`: never.
    pub compress_after: Option<Duration>,
    /// The oldest go while a log takes more than this many bytes on disk.
    pub retain_bytes: Option<u64>,
    /// They go this long after their last write.
    pub retain_age: Option<Duration>,
}

/// What was done so far; shared with those who watch.
#[derive(Debug, Default)]
pub struct Kept {
    /// Segments compressed.
    pub packed: AtomicU64,
    /// Segments deleted that were not compressed.
    pub retired_plain: AtomicU64,
    /// Segments deleted that were.
    pub retired_packed: AtomicU64,
    /// Bytes on disk that these took.
    pub retired_bytes: AtomicU64,
}

/// The time by which segments are old. It follows the host's clock, but goes at most twice as fast as time does: a clock
/// that jumps ahead makes nobody's log old at once, and one that was right after a long pause is caught up with.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    now: SystemTime,
    looked: Instant,
}

impl Clock {
    /// Begins when the newest of what is there was written, or where one of an earlier engine was last, or now: whatever
    /// is first. What was written while the host's clock was wrong says nothing.
    #[must_use]
    pub fn new(
        newest_write: Option<SystemTime>,
        noted: Option<SystemTime>,
        wall: SystemTime,
        monotonic: Instant,
    ) -> Self {
        let now = newest_write.into_iter().chain(noted).fold(wall, SystemTime::min);
        Self { now, looked: monotonic }
    }

    /// What time it is.
    pub fn tick(&mut self, wall: SystemTime, monotonic: Instant) -> SystemTime {
        let passed = monotonic.saturating_duration_since(self.looked);
        self.looked = monotonic;
        self.now = wall.min(self.now + 2 * passed);
        self.now
    }
}

/// What the owners of logs are asked to record, and what of it is on the disk.
pub struct Ledger<'a> {
    ask: Box<dyn Fn(Removal) + 'a>,
    asked: BTreeMap<Removal, bool>,
}

impl<'a> Ledger<'a> {
    /// `ask` passes a question on to the shard that owns the log.
    pub fn new(ask: impl Fn(Removal) + 'a) -> Self {
        Self { ask: Box::new(ask), asked: BTreeMap::new() }
    }

    /// The answer has come.
    pub fn recorded(&mut self, removal: Removal) {
        self.asked.insert(removal, true);
    }

    /// Whether the record is on the disk. Asks for it, once, if it is not.
    fn allows(&mut self, removal: Removal) -> bool {
        let Self { ask, asked } = self;
        *asked.entry(removal).or_insert_with(|| {
            ask(removal);
            false
        })
    }

    fn is_recorded(&self, removal: Removal) -> bool {
        self.asked.get(&removal).is_some_and(|recorded| *recorded)
    }

    /// It is gone, and with a deleted segment what was asked for its text.
    fn close(&mut self, removal: Removal) {
        self.asked.retain(|asked, _| (asked.token, asked.base) != (removal.token, removal.base));
    }
}

impl fmt::Debug for Ledger<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("asked", &self.asked).finish_non_exhaustive()
    }
}

/// Looks after the sealed segments of logs.
#[derive(Debug)]
pub struct Keeper<'a> {
    /// Where they are.
    pub data: &'a DataDir,
    /// What is to become of them.
    pub rules: Rules,
    /// What is counted.
    pub kept: &'a Kept,
    /// Set: whatever takes long is broken off.
    pub end: &'a AtomicBool,
}

/// What time it is.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// By the host's clock: for what can do no harm.
    pub wall: SystemTime,
    /// By a [`Clock`]: for what is deleted.
    pub trusted: SystemTime,
}

/// A log that is looked after.
struct Log<'a, 'b> {
    keeper: &'a Keeper<'a>,
    ledger: &'a mut Ledger<'b>,
    token: Token,
    dir: Dir,
    path: PathBuf,
    now: Now,
    /// The soonest that something else is to be done.
    next: Option<Duration>,
}

impl Keeper<'_> {
    /// Does what is due in a log. Says when something else will be, if no segment is sealed before and no answer comes to
    /// the ledger.
    ///
    /// # Errors
    /// The system's refusals; all can be tried again.
    pub fn look_after(&self, ledger: &mut Ledger<'_>, token: Token, now: Now) -> Result<Option<Duration>, FileError> {
        let path = self.data.path().join(token.to_string());
        let dir = self.data.root().dir(&token.to_string()).map_err(file_error(&path, "opened"))?;
        let files = LogFiles::list(&dir).map_err(file_error(&path, "listed"))?;
        let mut log = Log { keeper: self, ledger, token, dir, path, now, next: None };
        log.tidy(&files)?;
        let left = &files.bases[log.retain(&files.bases)?..];
        for pair in left.windows(2) {
            if self.end.load(Ordering::Relaxed) {
                break;
            }
            let (base, len) = (pair[0], pair[1].in_segment(pair[0]).0);
            log.seal(base, len, files.is_packed(base))?;
        }
        Ok(log.next)
    }
}

impl Log<'_, '_> {
    fn wait(&mut self, time: Duration) {
        self.next = Some(self.next.map_or(time, |next| next.min(time)));
    }

    fn error(&self, name: &str, tried: &'static str) -> impl FnOnce(io::Error) -> FileError + use<> {
        let path = self.path.join(name);
        move |source| FileError { path, tried, source }
    }

    /// Removes what a crash left: unfinished compressions, and indexes of segments that are deleted.
    fn tidy(&self, files: &LogFiles) -> Result<(), FileError> {
        let oldest = files.bases.first().copied().unwrap_or_default();
        let orphans = files.indexes.iter().filter(|&&base| base < oldest).map(|&base| index_name(base));
        for name in files.packing.iter().map(|&base| packing_name(base)).chain(orphans) {
            self.dir.unlink(&name).map_err(self.error(&name, "removed"))?;
        }
        Ok(())
    }

    /// Deletes the oldest segments while there are too many bytes or they are too old. Says how many go, at once or once
    /// that is recorded.
    fn retain(&mut self, bases: &[Offset]) -> Result<usize, FileError> {
        let Rules { retain_bytes, retain_age, .. } = self.keeper.rules;
        if retain_bytes.is_none() && retain_age.is_none() {
            return Ok(0);
        }
        let mut all = Vec::new();
        for &base in bases {
            all.push((base, self.stat(base)?));
        }
        let mut bytes: u64 = all.iter().map(|(_, stat)| stat.bytes).sum();
        let (mut deleted, mut waits) = (0, false);
        // The newest stays.
        for (base, stat) in all.iter().take(all.len().saturating_sub(1)) {
            let age = self.now.trusted.duration_since(stat.modified).unwrap_or_default();
            let is_old = retain_age.is_some_and(|most| age >= most);
            if !is_old && retain_bytes.is_none_or(|most| bytes <= most) {
                if let Some(most) = retain_age {
                    self.wait(most.saturating_sub(age));
                }
                break;
            }
            // All are asked for together, but none goes before an older one.
            let removal = Removal { token: self.token, base: *base, sealed: None };
            waits |= !self.ledger.allows(removal);
            if !waits {
                self.retire(removal, stat)?;
            }
            bytes -= stat.bytes;
            deleted += 1;
        }
        Ok(deleted)
    }

    /// What a segment takes on disk, in whatever form, and when it was last written.
    fn stat(&self, base: Offset) -> Result<SegmentStat, FileError> {
        let (plain, packed) = (segment_name(base), packed_name(base));
        let stat = |name: &str| self.dir.stat(name).map_err(self.error(name, "inspected"));
        let (plain, packed) = (stat(&plain)?, stat(&packed)?);
        let forms = plain.iter().chain(&packed);
        Ok(SegmentStat {
            // Of one that is there twice the text will go soon.
            bytes: packed.as_ref().or(plain.as_ref()).map_or(0, |stat| stat.len),
            modified: forms.map(|stat| stat.modified).min().unwrap_or(self.now.trusted),
            is_packed: plain.is_none(),
        })
    }

    /// Deletes a sealed segment, the oldest of its log: from here on the log begins with the next one.
    fn retire(&mut self, removal: Removal, stat: &SegmentStat) -> Result<(), FileError> {
        let base = removal.base;
        for name in [segment_name(base), packed_name(base), index_name(base)] {
            self.dir.unlink(&name).map_err(self.error(&name, "removed"))?;
        }
        self.ledger.close(removal);
        let kept = self.keeper.kept;
        let count = if stat.is_packed { &kept.retired_packed } else { &kept.retired_plain };
        count.fetch_add(1, Ordering::Relaxed);
        kept.retired_bytes.fetch_add(stat.bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Brings a sealed segment of so many bytes nearer to its last form.
    fn seal(&mut self, base: Offset, len: u64, is_packed: bool) -> Result<(), FileError> {
        let name = segment_name(base);
        let Some(stat) = self.dir.stat(&name).map_err(self.error(&name, "inspected"))? else { return Ok(()) };
        let removal = Removal { token: self.token, base, sealed: Some(Position(len)) };
        if self.ledger.is_recorded(removal) {
            // It was asked for when the compressed one was known to be good.
            return self.unlink_text(removal);
        }
        if is_packed {
            return self.finish(removal);
        }
        if stat.len > len {
            // It was given up, and its end is in the next one too: it will be cut.
            self.wait(KEEP_RETRY);
            return Ok(());
        }
        index_file::complete(&self.dir, base, stat.len, u64::MAX)
            .map_err(self.error(&index_name(base), "completed"))?;
        let Some(after) = self.keeper.rules.compress_after else { return Ok(()) };
        // A time to come is one of a clock that was wrong.
        let age = self.now.wall.duration_since(stat.modified).unwrap_or(after);
        if age < after {
            self.wait(after.saturating_sub(age));
            return Ok(());
        }
        self.pack(removal)
    }

    fn pack(&mut self, removal: Removal) -> Result<(), FileError> {
        let base = removal.base;
        let name = packing_name(base);
        match pack(&self.dir, base, self.keeper.end) {
            Ok(false) => {}
            Ok(true) => {
                self.dir.rename(&name, &packed_name(base)).map_err(self.error(&name, "renamed"))?;
                return self.unlink_text(removal);
            }
            Err(error) => {
                // It takes room that may be what is missing.
                let _removed = self.dir.unlink(&name);
                return Err(self.error(&name, "made")(error));
            }
        }
        self.dir.unlink(&name).map(drop).map_err(self.error(&name, "removed"))
    }

    /// Both are there. One that was renamed was on the disk and the same as the text, which perhaps was not: so if it can
    /// be decoded, it stays. Else it is made again.
    fn finish(&mut self, removal: Removal) -> Result<(), FileError> {
        let Removal { base, sealed, .. } = removal;
        let len = sealed.unwrap_or_default().0;
        let name = packed_name(base);
        let packed = self.dir.file(&name, Access::Read).and_then(SegmentFile::packed);
        if packed.is_ok_and(|mut packed| is_whole(&mut packed, len, self.keeper.end)) {
            return self.unlink_text(removal);
        }
        if self.keeper.end.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.dir.unlink(&name).map_err(self.error(&name, "removed"))?;
        self.pack(removal)
    }

    /// The compressed one is good: its name is brought to the disk, and once the journal knows, the text goes.
    fn unlink_text(&mut self, removal: Removal) -> Result<(), FileError> {
        let name = segment_name(removal.base);
        if self.ledger.is_recorded(removal) {
            self.dir.unlink(&name).map_err(self.error(&name, "removed"))?;
            self.ledger.close(removal);
            self.keeper.kept.packed.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        self.dir.sync().map_err(file_error(&self.path, "synced"))?;
        let _allowed = self.ledger.allows(removal);
        Ok(())
    }
}

struct SegmentStat {
    bytes: u64,
    modified: SystemTime,
    is_packed: bool,
}

/// Writes the compressed form under its first name, whole and synced; false if it was broken off.
fn pack(dir: &Dir, base: Offset, end: &AtomicBool) -> io::Result<bool> {
    let mut text = SegmentFile::open(dir, base)?.ok_or(io::ErrorKind::NotFound)?;
    let len = text.len()?;
    let file = dir.new_file(&packing_name(base), Access::ReadWrite)?;
    let mut encoder = Packer::new(&file)?;
    let (mut chunk, mut at) = (vec![0; CHUNK_BYTES], 0);
    while at < len {
        if end.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let part = chunk_of(&mut chunk, len - at);
        text.read_exact_at(part, at)?;
        encoder.push(part)?;
        at += part.len() as u64;
    }
    encoder.finish()?;
    // The time of its last entry is what it goes by from now on.
    file.set_modified(text.modified()?)?;
    file.sync_all()?;
    let mut packed = SegmentFile::packed(file)?;
    let same = is_same(&mut text, &mut packed, end)?;
    if same || end.load(Ordering::Relaxed) {
        return Ok(same);
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "what was compressed reads back as something else"))
}

/// Whether it holds so many bytes, all of which can be decoded; false too if it was broken off.
pub(super) fn is_whole(packed: &mut SegmentFile, len: u64, end: &AtomicBool) -> bool {
    let (mut chunk, mut at) = (vec![0; CHUNK_BYTES], 0);
    while at < len && !end.load(Ordering::Relaxed) {
        let part = chunk_of(&mut chunk, len - at);
        if packed.read_exact_at(part, at).is_err() {
            return false;
        }
        at += part.len() as u64;
    }
    at == len && packed.len().is_ok_and(|found| found == len)
}

/// Whether both hold the same bytes; false too if it was broken off.
pub(super) fn is_same(a: &mut SegmentFile, b: &mut SegmentFile, end: &AtomicBool) -> io::Result<bool> {
    let len = a.len()?;
    if b.len()? != len {
        return Ok(false);
    }
    same_bytes(a, 0, b, len, end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::look_up::Window;
    use crate::store::reader::{Missing, Output, cat};
    use crate::store::show::Style;
    use std::cell::RefCell;
    use std::fs::{self, File};
    use std::os::unix::fs::FileExt;

    const TOKEN: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";
    const LINES: u64 = 1000;
    /// Of one segment.
    const BYTES: u64 = 10 * LINES;

    struct Fixture {
        _parent: tempfile::TempDir,
        data: DataDir,
        kept: Kept,
        end: AtomicBool,
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn text(segment: u64) -> String {
        (0..LINES).fold(String::new(), |text, line| text + &format!("{:09}\n", segment * LINES + line))
    }

    /// Segments that were last written at 1000 s, 2000 s and so on.
    impl Fixture {
        fn new(segments: u64) -> Self {
            let parent = tempfile::tempdir().unwrap();
            let data = DataDir::open(&parent.path().join("data")).unwrap();
            for segment in 0..segments {
                let file = File::from(data.create_segment(token(), Offset(segment * BYTES)).unwrap());
                file.write_all_at(text(segment).as_bytes(), 0).unwrap();
                file.set_modified(at(1000 * (segment + 1))).unwrap();
            }
            Self { _parent: parent, data, kept: Kept::default(), end: AtomicBool::new(false) }
        }

        fn look(&self, rules: Rules, now: u64) -> Option<u64> {
            let keeper = Keeper { data: &self.data, rules, kept: &self.kept, end: &self.end };
            let now = Now { wall: at(now), trusted: at(now) };
            let asked = RefCell::new(Vec::new());
            let mut ledger = Ledger::new(|removal| asked.borrow_mut().push(removal));
            loop {
                let next = keeper.look_after(&mut ledger, token(), now).unwrap();
                let asked = asked.take();
                if asked.is_empty() {
                    return next.map(|next| next.as_secs());
                }
                for removal in asked {
                    ledger.recorded(removal);
                }
            }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.data.path().join(TOKEN).join(name)
        }

        /// Names in the log's directory without their zeros, sorted.
        fn names(&self) -> String {
            let names =
                fs::read_dir(self.path("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<_> = names.map(|name| name.trim_start_matches('0').to_owned()).collect();
            names.sort();
            names.join(" ")
        }

        fn read(&self) -> String {
            let mut out = Vec::new();
            let missing = Box::new(|missing: &Missing| panic!("{missing}"));
            let output = Output { out: &mut out, style: Style::default(), missing };
            cat(self.data.path(), token(), Window::default(), output).unwrap();
            String::from_utf8(out).unwrap()
        }
    }

    fn token() -> Token {
        TOKEN.parse().unwrap()
    }

    fn compress(after: u64) -> Rules {
        Rules { compress_after: Some(Duration::from_secs(after)), ..Rules::default() }
    }

    #[test]
    fn old_segments_are_compressed_and_read_the_same() {
        let fixture = Fixture::new(3);
        let all = fixture.read();
        assert_eq!(fixture.look(compress(1200), 2100), Some(100));
        assert_eq!(fixture.names(), ".idx .log 10000.idx 10000.log 20000.log current");
        assert_eq!(fixture.look(compress(1100), 2100), Some(1000));
        assert_eq!(fixture.names(), ".idx .log.zst 10000.idx 10000.log 20000.log current");
        // The newest never is, however old.
        assert_eq!(fixture.look(compress(600), 99_999), None);
        assert_eq!(fixture.names(), ".idx .log.zst 10000.idx 10000.log.zst 20000.log current");
        assert!(fixture.read() == all);
        let packed = fixture.path(&packed_name(Offset(0)));
        assert_eq!(fs::metadata(&packed).unwrap().modified().unwrap(), at(1000));
        assert_eq!(fixture.kept.packed.load(Ordering::Relaxed), 2);
        assert!(fs::metadata(&packed).unwrap().len() < BYTES / 2);
    }

    /// Whatever a crash left of the steps, the next look ends with the same.
    #[test]
    fn what_a_crash_left_is_finished() {
        let whole = Fixture::new(2);
        whole.look(compress(0), 1000);
        let packed = fs::read(whole.path(&packed_name(Offset(0)))).unwrap();
        let damaged: Vec<u8> =
            packed.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at == packed.len() / 2)).collect();
        let half = &packed[..packed.len() / 2];
        for (name, bytes) in [
            (packing_name(Offset(0)), half),
            (packing_name(Offset(0)), &packed),
            (packed_name(Offset(0)), &packed),
            (packed_name(Offset(0)), half),
            (packed_name(Offset(0)), &damaged),
        ] {
            let fixture = Fixture::new(2);
            let all = fixture.read();
            fs::write(fixture.path(&name), bytes).unwrap();
            assert!(fixture.read() == all, "the text is read while it is there");
            fixture.look(compress(0), 1000);
            let names = fixture.names();
            assert!([".idx .log.zst 10000.log current", ".log.zst 10000.log current"].contains(&&*names), "{names}");
            assert!(fs::read(fixture.path(&packed_name(Offset(0)))).unwrap() == packed, "{name}");
            assert!(fixture.read() == all);
        }
        // A power cut took the text, which nobody had synced; the compressed one was.
        let fixture = Fixture::new(2);
        let all = fixture.read();
        fs::write(fixture.path(&packed_name(Offset(0))), &packed).unwrap();
        fs::write(fixture.path(&segment_name(Offset(0))), vec![0; 100]).unwrap();
        fixture.look(compress(0), 1000);
        assert!(fixture.read() == all);
    }

    #[test]
    fn an_end_breaks_off_and_leaves_nothing() {
        let fixture = Fixture::new(2);
        fixture.end.store(true, Ordering::Relaxed);
        assert!(!pack(&fixture.data.root().dir(TOKEN).unwrap(), Offset(0), &fixture.end).unwrap());
        fixture.end.store(false, Ordering::Relaxed);
        fixture.look(Rules::default(), 1000);
        assert_eq!(fixture.names(), ".idx .log 10000.log current");
    }

    /// Nothing goes before its record is on the disk, and no segment before an older one.
    #[test]
    fn what_goes_is_recorded_before() {
        let fixture = Fixture::new(4);
        let asked = RefCell::new(Vec::new());
        let mut ledger = Ledger::new(|removal| asked.borrow_mut().push(removal));
        let rules = Rules { retain_bytes: Some(2 * BYTES), ..compress(0) };
        let keeper = Keeper { data: &fixture.data, rules, kept: &fixture.kept, end: &fixture.end };
        let mut look = |recorded: &[Removal]| {
            for &removal in recorded {
                ledger.recorded(removal);
            }
            let now = Now { wall: at(5000), trusted: at(5000) };
            keeper.look_after(&mut ledger, token(), now).unwrap();
            (fixture.names().replace("current", "").replace(".idx", ""), asked.take())
        };
        let removal = |base, sealed| Removal { token: token(), base: Offset(base), sealed };
        let [first, second] = [0, 10_000].map(|base| removal(base, None));
        let third = removal(20_000, Some(Position(BYTES)));
        let all = "log 10000.log 20000 20000.log 20000.log.zst 30000.log";
        let bare = |(names, asked): (String, Vec<Removal>)| (names.trim().trim_start_matches('.').to_owned(), asked);
        assert_eq!(bare(look(&[])), (all.into(), vec![first, second, third]));
        assert_eq!(bare(look(&[])), (all.into(), vec![]), "each is asked for once");
        assert_eq!(bare(look(&[second])), (all.into(), vec![]), "the oldest goes first");
        assert_eq!(bare(look(&[first, third])), ("20000 20000.log.zst 30000.log".into(), vec![]));
        assert_eq!(fixture.kept.retired_plain.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn the_oldest_go_first_and_the_newest_stays() {
        let fixture = Fixture::new(4);
        let rules = Rules { retain_bytes: Some(3 * BYTES), ..Rules::default() };
        assert_eq!(fixture.look(rules, 5000), None);
        assert_eq!(fixture.names(), "10000.idx 10000.log 20000.idx 20000.log 30000.log current");
        assert_eq!(fixture.read(), text(1) + &text(2) + &text(3));
        let rules = Rules { retain_age: Some(Duration::from_secs(10_000)), ..Rules::default() };
        assert_eq!(fixture.look(rules, 11_999), Some(1));
        assert_eq!(fixture.look(rules, 12_000), Some(1000));
        assert_eq!(fixture.names(), "20000.idx 20000.log 30000.log current");
        assert_eq!(fixture.look(Rules { retain_bytes: Some(0), ..rules }, 99_999), None);
        assert_eq!(fixture.names(), "30000.log current");
        assert_eq!(fixture.kept.retired_bytes.load(Ordering::Relaxed), 3 * BYTES);
        assert_eq!(fixture.kept.retired_plain.load(Ordering::Relaxed), 3);
        // An index that a crash left behind.
        fs::write(fixture.path(&index_name(Offset(0))), "").unwrap();
        fixture.look(Rules::default(), 99_999);
        assert_eq!(fixture.names(), "30000.log current");
    }

    #[expect(clippy::disallowed_methods, reason = "a clock needs some beginning")]
    #[test]
    fn a_clock_that_jumps_makes_nothing_old_at_once() {
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        let mut clock = Clock::new(Some(at(1000)), None, at(1010), begin);
        assert_eq!(clock.tick(at(1010), after(0)), at(1000));
        // Caught up with.
        assert_eq!(clock.tick(at(1020), after(10)), at(1020));
        assert_eq!(clock.tick(at(1030), after(20)), at(1030));
        // A year ahead, and back: forgotten.
        assert_eq!(clock.tick(at(32_000_000), after(21)), at(1032));
        assert_eq!(clock.tick(at(1032), after(22)), at(1032));
        // An hour back: nothing is old for an hour.
        assert_eq!(clock.tick(at(500), after(23)), at(500));
        let starts =
            [(None, None, 7), (Some(9), None, 7), (Some(9), Some(5), 5), (Some(5), Some(6), 5), (None, Some(6), 6)];
        for (newest, noted, expected) in starts {
            let mut clock = Clock::new(newest.map(at), noted.map(at), at(7), begin);
            assert_eq!(clock.tick(at(7), begin), at(expected));
        }
    }
}
