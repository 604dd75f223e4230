//! Inputs that are nearly right: those of the corpus, changed a little. The same ones in every run. (Also a module of `tests/tests/raw_inputs.rs`.)

use std::{fs, path::Path};

/// The longest input that is made, in bytes. One of the corpus may be longer.
const LONGEST: usize = 16 << 10;

/// Numbers at which something may turn over.
const EDGES: [&str; 19] = [
    "0",
    "-0",
    "-1",
    "1",
    "127",
    "128",
    "256",
    "65535",
    "65536",
    "2147483647",
    "2147483648",
    "4294967296",
    "9007199254740993",
    "-9223372036854775809",
    "18446744073709551615",
    "18446744073709551616",
    "1e308",
    "1e999",
    "0.1",
];

/// The same in binary, as many bytes of it as are wanted.
const WORDS: [u64; 8] = [0, 1, u64::MAX, u64::MAX - 1, i64::MAX as u64, 1 << 63, 0x8080_8080_8080_8080, 0x7f7f_7f7f_7f7f_7f7f];

/// Makes one input after the other.
pub(super) struct Generator {
    seeds: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
    state: u64,
}

/// The inputs of a target to begin with, by their files' names; `fuzz` is the folder `host/fuzz`.
pub(super) fn corpus(fuzz: &Path, target: &str) -> Vec<Vec<u8>> {
    let folder = fuzz.join("corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("a name in the folder").path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).expect("a file that can be read")).collect()
}

/// The words that mean something to a target, out of its dictionary in libFuzzer's form.
pub(super) fn words(fuzz: &Path, target: &str) -> Vec<Vec<u8>> {
    let file = fuzz.join("words").join(format!("{target}.dict"));
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| word(line).unwrap_or_else(|| panic!("{}: {line}", file.display()))).collect()
}

/// `"…"`, in which `\\`, `\"` and `\x00` are escaped.
fn word(line: &str) -> Option<Vec<u8>> {
    let mut rest = line.strip_prefix('"')?.strip_suffix('"')?.as_bytes();
    let mut word = Vec::new();
    loop {
        rest = match rest {
            [] => return Some(word),
            [b'\\', b'x', high, low, rest @ ..] => {
                word.push(u8::from_str_radix(std::str::from_utf8(&[*high, *low]).ok()?, 16).ok()?);
                rest
            }
            [b'\\', byte @ (b'\\' | b'"'), rest @ ..] => {
                word.push(*byte);
                rest
            }
            [b'\\' | b'"', ..] => return None,
            [byte, rest @ ..] => {
                word.push(*byte);
                rest
            }
        };
    }
}

impl Generator {
    /// For a target; the same `seed` makes the same inputs.
    pub(super) fn new(seeds: Vec<Vec<u8>>, words: Vec<Vec<u8>>, seed: u64) -> Self {
        assert!(!seeds.is_empty() && !words.is_empty());
        Self { seeds, words, state: seed }
    }

    /// Splitmix64.
    fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.draw() % end.max(1) as u64) as usize
    }

    /// A place in as many bytes, as often in the first ones as anywhere: there are headers.
    fn place(&mut self, length: usize) -> usize {
        let end = if self.below(2) == 0 { length.min(128) } else { length };
        self.below(end)
    }

    /// The next input.
    pub(super) fn next(&mut self, input: &mut Vec<u8>) {
        let seed = self.below(self.seeds.len());
        input.clone_from(&self.seeds[seed]);
        if self.below(64) == 0 {
            input.clear();
            (0..self.below(64)).for_each(|_| input.push(self.draw() as u8));
        }
        let longest = LONGEST.max(input.len());
        // One change, or two, seldom more.
        for _ in 0..=self.draw().trailing_zeros().min(6) {
            self.change(input);
            input.truncate(longest);
        }
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.place(input.len());
        let until = (at + 1 + self.below(32)).min(input.len());
        match self.below(11) {
            0 if !input.is_empty() => input[at] ^= 1 << self.below(8),
            1 if !input.is_empty() => input[at] = self.draw() as u8,
            2 if !input.is_empty() => drop(input.drain(at..until)),
            3 if self.below(4) == 0 => input.truncate(at),
            4 if !input.is_empty() => {
                let times = 1 << self.below(8);
                let again = input[at..until].repeat(times);
                input.splice(at..at, again);
            }
            5 => {
                let other = &self.seeds[(self.state % self.seeds.len() as u64) as usize];
                let from = (self.state >> 8) as usize % (other.len() + 1);
                input.truncate(at);
                input.extend(&other[from..]);
            }
            6 => {
                let width = (1 << self.below(4)).min(input.len() - at);
                let bytes = WORDS[self.below(WORDS.len())].to_be_bytes();
                input[at..at + width].copy_from_slice(&bytes[8 - width..]);
                if self.below(2) == 0 {
                    input[at..at + width].reverse();
                }
            }
            7 | 8 => {
                let from = input[at..].iter().position(u8::is_ascii_digit).map_or(at, |ahead| at + ahead);
                let digits = input[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                let edge = EDGES[self.below(EDGES.len())].bytes();
                input.splice(from..from + digits, edge);
            }
            _ => {
                let word = self.words[(self.state % self.words.len() as u64) as usize].iter().copied();
                let until = if self.state & 1 == 0 { at } else { until };
                input.splice(at..until, word);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_libfuzzer_reads_them() {
        assert_eq!(word(r#""a\\\"\x00\xfFz""#), Some(b"a\\\"\0\xffz".to_vec()));
        for wrong in ["a", "\"", r#""\x0""#, r#""\n""#, r#""a"b""#] {
            assert_eq!(word(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_inputs_and_hardly_two_are_alike() {
        let inputs = |seed| {
            let mut generator = Generator::new(vec![b"{\"id\": 17}".to_vec(), b"[]".to_vec()], vec![b"null".to_vec()], seed);
            let mut input = Vec::new();
            let make = |_| {
                generator.next(&mut input);
                input.clone()
            };
            (0..10_000).map(make).collect::<Vec<_>>()
        };
        let first = inputs(1);
        assert!(first == inputs(1) && first != inputs(2));
        let different = first.iter().collect::<std::collections::HashSet<_>>().len();
        assert!(different > 4_000, "{different}");
        assert!(first.iter().all(|input| input.len() <= LONGEST));
        assert!(first.iter().any(|input| input.windows(5).any(|bytes| bytes == b"1e999")));
    }
}
