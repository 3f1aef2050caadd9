//! A segment as its readers see it: bytes at positions, whether it is text or compressed.
//!
//! ```text
//!  <base>.log ──────────────────────────────► positions
//!  <base>.log.zst ── frames of 1 MiB, each ──► the same positions       seek table at the end: which frame has which
//! ```
//! Opening prefers the text: while both are there, it is the one that was not made from the other. A file stays readable
//! while it is open, whatever happens to its name. What is compressed may be damaged like everything else: nothing is
//! believed of it that could take more memory than a frame's, or for ever.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use zeekstd::seek_table::Format;
use zeekstd::{DecodeOptions, Decoder, EncodeOptions, Encoder, FrameSizePolicy, OffsetFrom, SEEK_TABLE_INTEGRITY_SIZE};

use super::{CHUNK_BYTES, chunk_of};
use crate::limits::PACKED_FRAME_BYTES;
use crate::segment::{Offset, packed_name, segment_name};
use crate::sys::file::{Access, Dir};

/// Base-2 logarithm of the largest window that is believed: a packer makes none above 2 MiB.
const STREAM_WINDOW_LOG_MAX: u32 = 23;
/// Bytes of a seek table for each frame, at least.
const FRAME_ENTRY_BYTES: u64 = 8;

/// An open segment.
pub(super) struct SegmentFile {
    file: File,
    packed: Option<Packed>,
}

impl SegmentFile {
    /// Opens a segment; `None` if it is gone.
    pub(super) fn open(dir: &Dir, base: Offset) -> io::Result<Option<Self>> {
        match dir.file(&segment_name(base), Access::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other.map(|file| Some(Self::plain(file))),
        }
        // Its name is made before that of the text goes.
        match dir.file(&packed_name(base), Access::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => Self::packed(other?).map(Some),
        }
    }

    /// The text of it.
    pub(super) fn plain(file: File) -> Self {
        Self { file, packed: None }
    }

    /// The compressed form of it.
    pub(super) fn packed(file: File) -> io::Result<Self> {
        let packed = Some(Packed::open(file.try_clone()?)?);
        Ok(Self { file, packed })
    }

    /// Whether it is compressed.
    pub(super) fn is_packed(&self) -> bool {
        self.packed.is_some()
    }

    /// Bytes of entries.
    pub(super) fn len(&self) -> io::Result<u64> {
        match &self.packed {
            Some(packed) => Ok(packed.len),
            None => self.file.metadata().map(|meta| meta.len()),
        }
    }

    /// When its last entry was written.
    pub(super) fn modified(&self) -> io::Result<SystemTime> {
        self.file.metadata()?.modified()
    }

    /// Fills the buffer with the bytes at a position.
    pub(super) fn read_exact_at(&mut self, bytes: &mut [u8], position: u64) -> io::Result<()> {
        match &mut self.packed {
            Some(packed) => packed.read_exact_at(bytes, position),
            None => self.file.read_exact_at(bytes, position),
        }
    }
}

/// Whether a compressed segment says the same to `zstdcat`, which passes over the seek table.
///
/// # Errors
/// `InvalidData` if it does not; those of reading.
pub(super) fn check_stream(file: &mut SegmentFile) -> io::Result<()> {
    let len = file.len()?;
    let mut stream = zstd::Decoder::new(StreamOf { file: file.file.try_clone()?, at: 0 })?;
    stream.window_log_max(STREAM_WINDOW_LOG_MAX)?;
    let (mut told, mut ours) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    let mut at = 0;
    loop {
        // Errors of the library have no number of the system's.
        let read = stream.read(&mut told);
        let read = read.map_err(|error| if error.raw_os_error().is_some() { error } else { damaged(error) })?;
        if read == 0 {
            return if at == len { Ok(()) } else { Err(end_of_file()) };
        }
        file.read_exact_at(&mut ours[..read], at)?;
        if told[..read] != ours[..read] {
            return Err(damaged("what follows the frames' headers is not what the seek table says"));
        }
        at += read as u64;
    }
}

/// A file from its beginning to its end, whatever else reads it.
struct StreamOf {
    file: File,
    at: u64,
}

impl Read for StreamOf {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(bytes, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Whether a segment reaches into the next one and both hold the same there: it was given up, and will be cut. What cannot
/// be read is not the same; what was cut meanwhile is.
pub(super) fn is_repeated(dir: &Dir, base: Offset, next: Offset) -> bool {
    let compare = || -> io::Result<bool> {
        let (Some(mut file), Some(mut copy)) = (SegmentFile::open(dir, base)?, SegmentFile::open(dir, next)?) else {
            return Ok(false);
        };
        let start = next.in_segment(base).0;
        let len = file.len()?.saturating_sub(start).min(copy.len()?);
        same_bytes(&mut file, start, &mut copy, len, &AtomicBool::new(false))
    };
    // The first time it may be cut in the middle.
    compare().or_else(|_| compare()).unwrap_or(false)
}

/// Whether a file has from a position on what the other one begins with; false too if it was broken off.
pub(super) fn same_bytes(
    file: &mut SegmentFile,
    start: u64,
    copy: &mut SegmentFile,
    len: u64,
    end: &AtomicBool,
) -> io::Result<bool> {
    let (mut ours, mut theirs) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    let mut at = 0;
    while at < len {
        let (ours, theirs) = (chunk_of(&mut ours, len - at), chunk_of(&mut theirs, len - at));
        file.read_exact_at(ours, start + at)?;
        copy.read_exact_at(theirs, at)?;
        if ours != theirs || end.load(Ordering::Relaxed) {
            return Ok(false);
        }
        at += ours.len() as u64;
    }
    Ok(true)
}

/// A compressed segment.
struct Packed {
    decoder: Decoder<'static, Source>,
    len: u64,
}

impl Packed {
    fn open(file: File) -> io::Result<Self> {
        let mut source = Source { len: file.metadata()?.len(), file, at: 0 };
        source.check_frames()?;
        let decoder = DecodeOptions::new(source).into_decoder().map_err(damaged)?;
        let len = decoder.seek_table().size_decomp();
        Ok(Self { decoder, len })
    }

    fn read_exact_at(&mut self, mut bytes: &mut [u8], position: u64) -> io::Result<()> {
        if position.checked_add(bytes.len() as u64).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // Reading on from where the last one ended decodes nothing twice.
        self.decoder.set_offset(position).map_err(damaged)?;
        while !bytes.is_empty() {
            match self.decoder.decompress(bytes) {
                Ok(read @ 1..) => bytes = &mut bytes[read..],
                other => {
                    // From here it could not go on with the next frame.
                    self.decoder.reset();
                    return Err(other.err().map_or_else(end_of_file, damaged));
                }
            }
        }
        Ok(())
    }
}

/// A compressed file as its decoder reads it.
struct Source {
    file: File,
    len: u64,
    at: u64,
}

impl Source {
    /// The decoder takes memory for as many frames as the last bytes say.
    fn check_frames(&mut self) -> io::Result<()> {
        let integrity = zeekstd::Seekable::seek_table_integrity(self, Format::Foot).map_err(damaged)?;
        let frames = u32::from_le_bytes([integrity[0], integrity[1], integrity[2], integrity[3]]);
        if u64::from(frames) * FRAME_ENTRY_BYTES > self.len {
            return Err(damaged("a seek table that is larger than the file"));
        }
        Ok(())
    }
}

impl zeekstd::Seekable for Source {
    fn set_offset(&mut self, offset: OffsetFrom) -> zeekstd::Result<u64> {
        let at = match offset {
            OffsetFrom::Start(at) => Some(at),
            OffsetFrom::End(back) => self.len.checked_add_signed(back),
        };
        self.at = at.filter(|&at| at <= self.len).ok_or_else(end_of_file)?;
        Ok(self.at)
    }

    /// The decoder would ask for ever if it were told that there is no more.
    fn read(&mut self, bytes: &mut [u8]) -> zeekstd::Result<usize> {
        let read = self.file.read_at(bytes, self.at)?;
        if read == 0 {
            return Err(end_of_file().into());
        }
        self.at += read as u64;
        Ok(read)
    }

    fn seek_table_integrity(&mut self, _format: Format) -> zeekstd::Result<[u8; SEEK_TABLE_INTEGRITY_SIZE]> {
        let mut integrity = [0; SEEK_TABLE_INTEGRITY_SIZE];
        let at = self.len.checked_sub(integrity.len() as u64).ok_or_else(end_of_file)?;
        self.file.read_exact_at(&mut integrity, at)?;
        Ok(integrity)
    }
}

fn end_of_file() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

fn damaged(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

/// Compresses what is pushed, so that the same bytes always give the same file.
pub(super) struct Packer<W>(Encoder<'static, W>);

impl<W: Write> Packer<W> {
    pub(super) fn new(out: W) -> io::Result<Self> {
        let options = EncodeOptions::new().checksum_flag(true);
        let options = options.frame_size_policy(FrameSizePolicy::Uncompressed(PACKED_FRAME_BYTES));
        options.into_encoder(out).map(Self).map_err(io::Error::other)
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    pub(super) fn finish(self) -> io::Result<()> {
        self.0.finish().map(drop).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text that compresses, with no period of a frame's length.
    fn text(len: usize) -> Vec<u8> {
        let lines =
            (0_u64..).flat_map(|line| format!("{line} {:x}\n", line.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into_bytes());
        lines.take(len).collect()
    }

    fn pack(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut packer = Packer::new(&mut out).unwrap();
        for piece in text.chunks(300_000) {
            packer.push(piece).unwrap();
        }
        packer.finish().unwrap();
        out
    }

    fn open(bytes: &[u8]) -> io::Result<SegmentFile> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        SegmentFile::packed(file)
    }

    fn read_whole(file: &mut SegmentFile) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(file.len()?).unwrap().min(64 << 20)];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    #[test]
    fn any_piece_is_read_alone() {
        let text = text((3 << 20) + 777);
        let packed = pack(&text);
        assert!(packed == pack(&text) && packed.len() < text.len() * 2 / 3, "{} of {}", packed.len(), text.len());
        let mut file = open(&packed).unwrap();
        assert_eq!(file.len().unwrap(), text.len() as u64);
        let mut bytes = vec![0; 300_000];
        let starts =
            [0, 300_000, 600_000, 900_000, 1 << 20, 17, (1 << 20) - 1, (3 << 20) - 300_000, text.len() - 300_000, 5];
        for start in starts {
            file.read_exact_at(&mut bytes, start as u64).unwrap();
            assert!(bytes == text[start..start + bytes.len()], "at {start}");
        }
        assert!(file.read_exact_at(&mut bytes, text.len() as u64 - 299_999).is_err());
        assert!(read_whole(&mut open(&pack(b"")).unwrap()).unwrap().is_empty());
    }

    /// Cut or changed anywhere: an error or, where no data changed, the right bytes; never a wait without end.
    #[test]
    fn damage_is_an_error() {
        let text = text(70_000);
        let packed = pack(&text);
        for cut in (0..packed.len()).step_by(97).chain(packed.len() - 40..packed.len()) {
            let read = open(&packed[..cut]).and_then(|mut file| read_whole(&mut file));
            assert!(read.is_err(), "cut at {cut}");
        }
        let mut damaged = packed.clone();
        for at in (0..packed.len()).step_by(61).chain(packed.len() - 40..packed.len()) {
            damaged[at] ^= 0x10;
            let read = open(&damaged).and_then(|mut file| read_whole(&mut file));
            assert!(read.is_err_and(|_| true) || at >= packed.len() - 40, "changed at {at}");
            damaged[at] ^= 0x10;
        }
    }

    /// The seek table leads past headers of frames: a changed bit there is met by nobody but `zstdcat`.
    #[test]
    fn what_others_read_otherwise_is_damage() {
        let text = text(70_000);
        let mut packed = pack(&text);
        check_stream(&mut open(&packed).unwrap()).unwrap();
        let mut found = 0;
        for (at, bit) in (0..16).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            packed[at] ^= 1 << bit;
            let file = open(&packed).and_then(|mut file| read_whole(&mut file).map(|_| file));
            if let Ok(mut file) = file {
                let is_same = zstd::decode_all(&packed[..]).is_ok_and(|bytes| bytes == text);
                assert!(is_same || check_stream(&mut file).is_err(), "bit {bit} at {at}");
                found += usize::from(!is_same);
            }
            packed[at] ^= 1 << bit;
        }
        assert!(found > 0);
    }
}
