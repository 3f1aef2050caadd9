//! What a disk holds, and what a power cut leaves of it.
//!
//! ```text
//!  base ─► write write FLUSH write FLUSH write write write ✂ cut
//!          ╰─ on the disk for sure ────╯ ╰─ none, the first half, or random sectors ─╯
//! ```
//!
//! A flush answers for the writes that came before it, and a sector is written whole or not at all.
//! Nothing else is promised: what came after the last flush may be there in any part.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use crate::support::hostile::Random;

/// What is kept together in memory.
const PAGE_BYTES: usize = 4096;

/// The content of a disk. Pages that were never written take no memory, and copies share pages.
#[derive(Clone, Debug)]
pub struct Image {
    bytes: u64,
    pages: BTreeMap<u64, Arc<[u8; PAGE_BYTES]>>,
}

impl Image {
    /// What the file holds.
    pub fn load(file: &Path) -> Self {
        let file = File::open(file).unwrap();
        let bytes = file.metadata().unwrap().len();
        assert_eq!(bytes % PAGE_BYTES as u64, 0, "a disk has whole pages");
        let mut image = Self { bytes, pages: BTreeMap::new() };
        let mut chunk = vec![0; 256 * PAGE_BYTES];
        for position in (0..bytes).step_by(chunk.len()) {
            let length = usize::try_from(bytes - position).unwrap().min(chunk.len());
            file.read_exact_at(&mut chunk[..length], position).unwrap();
            for (number, page) in (position / PAGE_BYTES as u64..).zip(chunk[..length].chunks(PAGE_BYTES)) {
                if page.iter().any(|&byte| byte != 0) {
                    image.pages.insert(number, Arc::new(page.try_into().unwrap()));
                }
            }
        }
        image
    }

    /// Writes it to a new file, with holes where nothing was written.
    pub fn save(&self, file: &Path) {
        let file = File::create(file).unwrap();
        file.set_len(self.bytes).unwrap();
        for (number, page) in &self.pages {
            file.write_all_at(&page[..], number * PAGE_BYTES as u64).unwrap();
        }
    }

    /// How much a disk with this content holds.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether every page of the range was written before.
    pub fn has(&self, position: u64, length: usize) -> bool {
        pieces(position, length).all(|(page, ..)| self.pages.contains_key(&page))
    }

    /// The bytes from the position on; none past the end.
    pub fn read(&self, position: u64, length: usize) -> Vec<u8> {
        let length = usize::try_from(self.bytes.saturating_sub(position)).unwrap().min(length);
        let mut bytes = vec![0; length];
        for (page, within, span) in pieces(position, length) {
            if let Some(page) = self.pages.get(&page) {
                let piece = within..within + span.len();
                bytes[span].copy_from_slice(&page[piece]);
            }
        }
        bytes
    }

    /// Puts the bytes at the position, which must be inside the disk.
    pub fn write(&mut self, position: u64, bytes: &[u8]) {
        assert!(position + bytes.len() as u64 <= self.bytes, "a write past the end of the disk");
        for (page, within, span) in pieces(position, bytes.len()) {
            let page = self.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE_BYTES]));
            Arc::make_mut(page)[within..within + span.len()].copy_from_slice(&bytes[span]);
        }
    }
}

/// The pages that a range of the disk touches: the number of each, where in it the range begins, and which part of the
/// range it has.
fn pieces(position: u64, length: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let first = usize::try_from(position % PAGE_BYTES as u64).expect("it is less than a page");
    let number = position / PAGE_BYTES as u64;
    (number..).zip(0..(first + length).div_ceil(PAGE_BYTES)).map(move |(page, nth)| {
        let begin = (nth * PAGE_BYTES).max(first);
        let end = ((nth + 1) * PAGE_BYTES).min(first + length);
        (page, begin - nth * PAGE_BYTES, begin - first..end - first)
    })
}

/// What a disk was asked to do, and did.
#[derive(Clone, Debug)]
pub enum Event {
    /// Bytes were put at a position.
    Write {
        /// Where the first one is.
        position: u64,
        /// They, whole sectors.
        bytes: Arc<[u8]>,
    },
    /// All writes before it are safe.
    Flush,
}

/// What is left of the writes that no flush answers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Nothing: the cache of the disk is lost.
    None,
    /// The first half, whole: the disk writes in order, and stops.
    Half,
    /// Any sectors: the disk writes as it likes.
    Random,
}

/// All that happened to a disk.
#[derive(Clone, Debug)]
pub struct Recording {
    /// What was on it at first.
    pub base: Image,
    /// What came then.
    pub events: Vec<Event>,
}

impl Recording {
    /// What is on the disk when the power fails after so many events, if it writes so many bytes whole or not at all.
    pub fn cut(&self, at: usize, rest: Rest, sector_bytes: usize, random: &mut Random) -> Image {
        let flushed = self.events[..at].iter().rposition(|event| matches!(event, Event::Flush)).unwrap_or(0);
        let mut image = self.base.clone();
        write_all(&mut image, &self.events[..flushed]);
        let pending = &self.events[flushed..at];
        match rest {
            Rest::None => {}
            Rest::Half => write_all(&mut image, &pending[..pending.len() / 2]),
            Rest::Random => write_some_sectors(&mut image, pending, sector_bytes, random),
        }
        image
    }
}

fn write_all(image: &mut Image, events: &[Event]) {
    for event in events {
        if let Event::Write { position, bytes } = event {
            image.write(*position, bytes);
        }
    }
}

fn write_some_sectors(image: &mut Image, events: &[Event], sector_bytes: usize, random: &mut Random) {
    for event in events {
        let Event::Write { position, bytes } = event else { continue };
        for (sector, position) in bytes.chunks(sector_bytes).zip((*position..).step_by(sector_bytes)) {
            if random.below(2) == 0 {
                image.write(position, sector);
            }
        }
    }
}
