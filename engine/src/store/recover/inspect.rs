//! A segment as it lies there: in which form, and how long.
//!
//! ```text
//!  <base>.log                      counts
//!  <base>.log.zst                  counts
//!  both, after a power cut         the compressed one, if all of it can be decoded and is as long as it should be; else the text
//! ```

use std::io;
use std::sync::atomic::AtomicBool;

use super::super::keep::{is_same, is_whole};
use super::super::segment_file::SegmentFile;
use super::super::{LogFiles, file_error};
use super::{Log, Recovery, Segment, damage};
use crate::error::RecoverError;
use crate::segment::{Form, Offset, Position, packed_name, segment_name};
use crate::sys::file::{Access, Kind};

/// Recovery is not broken off.
static NEVER: AtomicBool = AtomicBool::new(false);

impl Recovery<'_> {
    pub(super) fn inspect(
        &mut self,
        log: &Log,
        files: &LogFiles,
        base: Offset,
        next: Option<Offset>,
    ) -> Result<Segment, RecoverError> {
        let is_plain = files.is_plain(base);
        let name = if is_plain { Form::Text } else { Form::Packed }.name(base);
        let path = log.path.join(&name);
        let stat = log.dir.stat(&name).map_err(file_error(&path, "inspected"))?;
        let stat = stat.filter(|stat| stat.kind == Kind::File);
        let stat = stat.ok_or_else(|| damage(&path, "a file", "a directory or a symbolic link"))?;
        let (mut len, mut is_packed) = (stat.len, !is_plain);
        if is_packed {
            len = packed_len(log, base)?;
        } else if files.is_packed(base)
            && !self.history.is_retired(log.name, base)
            && let Some(next) = next.map(|next| next.in_segment(base).0)
        {
            is_packed = self.prefer(log, base, (stat.len, next))?;
            len = if is_packed { next } else { len };
        }
        let end = Position(len).in_log(base);
        end.ok_or_else(|| damage(&path, "an end below 2^64", format!("{len} bytes")))?;
        self.found.packed += u64::from(!is_plain);
        self.found.newest_write = self.found.newest_write.max(Some(stat.modified));
        Ok(Segment { base, len, inode: stat.inode, is_packed })
    }

    /// Of a segment that is there in both forms, whether the compressed one counts: it was synced before it got its name,
    /// the text perhaps never. The keeper removes the text where both say the same; else the one that does not count goes to
    /// quarantine, so that nobody reads it.
    fn prefer(&mut self, log: &Log, base: Offset, (text_len, len): (u64, u64)) -> Result<bool, RecoverError> {
        // What cannot even be opened is left alone.
        let Ok(file) = log.dir.file(&packed_name(base), Access::Read) else { return Ok(false) };
        let mut packed = match SegmentFile::packed(file) {
            Ok(packed) if packed.len().is_ok_and(|packed| packed == len) => Some(packed),
            _ => None,
        };
        if !self.lost_power() && self.has_all_journals() {
            return Ok(packed.is_some());
        }
        if let Some(packed) = &mut packed
            && is_whole(packed, len, &NEVER)
        {
            let name = segment_name(base);
            let text = log.dir.file(&name, Access::Read).map_err(file_error(&log.path.join(&name), "opened"))?;
            let mut text = SegmentFile::plain(text);
            // What cannot be read is not the same.
            if !is_same(&mut text, packed, &NEVER).unwrap_or(false) {
                self.quarantine.move_form_later(log.name, base, Form::Text, text_len);
                self.found.packed += 1;
            }
            return Ok(true);
        }
        let found = "one that cannot be read as a whole".to_owned();
        self.alarm(log, base, format!("a compressed form of {len} bytes beside it"), found);
        let stat = log.dir.stat(&packed_name(base)).map_err(file_error(&log.path, "inspected"))?;
        self.quarantine.move_form_later(log.name, base, Form::Packed, stat.map_or(0, |stat| stat.len));
        Ok(false)
    }
}

/// Bytes of entries in a compressed segment.
pub(super) fn packed_len(log: &Log, base: Offset) -> Result<u64, RecoverError> {
    let path = log.path.join(packed_name(base));
    let packed = log.dir.file(&packed_name(base), Access::Read).map_err(file_error(&path, "opened"))?;
    match SegmentFile::packed(packed).and_then(|packed| packed.len()) {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
            Err(damage(&path, "a compressed segment", error.to_string()))
        }
        other => Ok(other.map_err(file_error(&path, "read"))?),
    }
}
