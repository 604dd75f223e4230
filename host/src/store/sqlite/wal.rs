//! A look at FILE-wal before SQLite opens it. SQLite takes the first frame that does not fit for the end of the log, and says nothing: behind one flipped bit,
//! all that was acknowledged since the last checkpoint would be gone.
//!
//! What does not fit is an unfinished write at the end, which a power cut leaves and which was never acknowledged, or it is damage. It is damage where
//! - the header does not fit and something follows it,
//! - frames that follow continue it over more than one transaction: a transaction is begun only after the one before is durable,
//! - FILE-shm, where it is of this log, knows more frames: those are noted there only after they are durable.
//!
//! The format is that of <https://www.sqlite.org/fileformat2.html#the_write_ahead_log> and <https://www.sqlite.org/walformat.html>.

use std::collections::BTreeMap;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// What a log holds that counts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wal {
    /// Where the last content of each page begins, by the page's number from 1.
    pub(super) pages: BTreeMap<u32, usize>,
    /// How many pages the database has; 0 where the log says nothing.
    pub(super) size: u32,
    pub(super) page_size: usize,
}

type Sum = (u32, u32);

fn word(bytes: &[u8], at: usize, big_endian: bool) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    if big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
}

/// Continues a sum over pairs of words.
fn sum(bytes: &[u8], big_endian: bool, seed: Sum) -> Sum {
    bytes.chunks_exact(8).fold(seed, |(first, second), pair| {
        let first = first.wrapping_add(word(pair, 0, big_endian)).wrapping_add(second);
        (first, second.wrapping_add(word(pair, 4, big_endian)).wrapping_add(first))
    })
}

struct Frames<'a> {
    log: &'a [u8],
    page_size: usize,
    big_endian: bool,
}

impl Frames<'_> {
    fn at(&self, index: usize) -> Option<&[u8]> {
        let length = FRAME_HEADER + self.page_size;
        let start = HEADER + index * length;
        self.log.get(start..start + length)
    }

    fn sum(&self, frame: &[u8], seed: Sum) -> Sum {
        sum(&frame[FRAME_HEADER..], self.big_endian, sum(&frame[..8], self.big_endian, seed))
    }

    /// Whether its salts are those of the header.
    fn is_of_this_log(&self, frame: &[u8]) -> bool {
        frame[8..16] == self.log[16..24]
    }
}

/// The sum that a frame says it has.
fn stored(frame: &[u8]) -> Sum {
    (word(frame, 16, true), word(frame, 20, true))
}

/// How many pages the database has after the transaction that the frame ends; 0 where it ends none.
fn commits(frame: &[u8]) -> u32 {
    word(frame, 4, true)
}

/// What counts in `log`, or how it is damaged. `shared` is the content of FILE-shm.
pub(super) fn check(log: &[u8], shared: Option<&[u8]>) -> Result<Wal, String> {
    let shared = shared.and_then(Shared::parse);
    let lost = |kept: usize| match &shared {
        Some(shared) if shared.frames as usize > kept => {
            Err(format!("its -wal is damaged: {} frames of it were written, {kept} of them can be read", shared.frames))
        }
        _ => Ok(()),
    };
    if log.len() < HEADER {
        // Of another log that is there no more, perhaps, where all of it is in the database already.
        if shared.as_ref().is_some_and(|shared| shared.frames > shared.in_database) {
            lost(0)?;
        }
        return Ok(Wal::default());
    }
    let big_endian = word(log, 0, true) & 1 == 1;
    let page_size = word(log, 8, true) as usize;
    let header = sum(&log[..24], big_endian, (0, 0));
    let fits = word(log, 0, true) & !1 == 0x377f_0682
        && word(log, 4, true) == 3_007_000
        && page_size.is_power_of_two()
        && (512..=65_536).contains(&page_size)
        && header == (word(log, 24, true), word(log, 28, true));
    if !fits {
        return if log.len() == HEADER {
            Ok(Wal::default())
        } else {
            Err("its -wal is damaged: the header is not what was written".into())
        };
    }
    let frames = Frames { log, page_size, big_endian };
    let (mut wal, mut open) = (Wal { page_size, ..Wal::default() }, Vec::new());
    let (mut seed, mut kept, mut index) = (header, 0, 0);
    while let Some(frame) = frames.at(index) {
        let (expected, page) = (frames.sum(frame, seed), word(frame, 0, true));
        if !frames.is_of_this_log(frame) && expected == stored(frame) {
            return Err(format!("its -wal is damaged in frame {}", index + 1));
        }
        if !frames.is_of_this_log(frame) || expected != stored(frame) || page == 0 {
            unfinished(&frames, index, expected)?;
            break;
        }
        (seed, index) = (expected, index + 1);
        open.push((page, HEADER + (index - 1) * (FRAME_HEADER + page_size) + FRAME_HEADER));
        if commits(frame) != 0 {
            wal.size = commits(frame);
            wal.pages.extend(open.drain(..));
            kept = index;
        }
    }
    if shared.as_ref().is_some_and(|shared| shared.salts == log[16..24]) {
        lost(kept)?;
    }
    Ok(wal)
}

/// Whether what begins with the frame at `bad` may be an unfinished write; `expected` is the sum that it should have. What an earlier unfinished write left
/// behind it does not continue it.
fn unfinished(frames: &Frames<'_>, bad: usize, expected: Sum) -> Result<(), String> {
    let ends = |frame: &[u8]| u32::from(frames.is_of_this_log(frame) && commits(frame) != 0);
    let mut transactions = 0;
    let mut seeds = Vec::new();
    for index in bad.. {
        let Some(frame) = frames.at(index) else { break };
        let continues = frames.is_of_this_log(frame) && seeds.iter().any(|seed| frames.sum(frame, *seed) == stored(frame));
        transactions = if continues { transactions + ends(frame) } else { ends(frame) };
        if transactions > 1 {
            return Err(format!("its -wal is damaged in frame {}: later transactions follow", bad + 1));
        }
        seeds.clear();
        seeds.push(stored(frame));
        if index == bad {
            seeds.push(expected);
        }
    }
    Ok(())
}

/// What FILE-shm says of the log.
struct Shared {
    frames: u32,
    /// How many of them are in the database as well.
    in_database: u32,
    salts: [u8; 8],
}

impl Shared {
    /// Nothing where it is not whole: it need not be.
    fn parse(bytes: &[u8]) -> Option<Self> {
        const COPY: usize = 48;
        let [first, second] = [bytes.get(..COPY)?, bytes.get(COPY..2 * COPY)?];
        let native = |at| word(bytes, at, cfg!(target_endian = "big"));
        bytes.get(..2 * COPY + 4)?;
        let whole =
            first == second && native(0) == 3_007_000 && sum(&first[..40], cfg!(target_endian = "big"), (0, 0)) == (native(40), native(44));
        let mut salts = [0; 8];
        salts.copy_from_slice(&first[32..40]);
        whole.then(|| Self { frames: native(16), in_database: native(96), salts })
    }
}
