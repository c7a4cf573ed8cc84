//! Feeds a target with what its seeds become when they are mutated at random. Nothing here knows the target's branches;
//! what it finds beside that is the work of cargo-fuzz.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::targets::Target;

/// Longer inputs are cut: most mistakes need few bytes, and thousands of tries need short ones.
const LONGEST: usize = 16 * 1024;

/// How much an input may have allocated: for each of its bytes, and beside that. Lists of some hundred thousand small things
/// take more, by the driver's and the types' own measure: docs/security.md.
const HEAP_FACTOR: usize = 4;
const HEAP_BASE: usize = 1 << 20;

/// An input that keeps the target busy for longer is a mistake, too.
const PATIENCE: Duration = Duration::from_secs(5);

/// How the heap is looked at: the program that runs this has the allocator.
pub struct Heap {
    /// Forgets the highest use; what is used now.
    pub begin: fn() -> usize,
    /// The highest use since then.
    pub peak: fn() -> usize,
}

/// What was tried.
#[derive(Debug, Default)]
pub struct Figures {
    pub execs: u64,
    /// The most bytes allocated for a byte of input, beyond a mebibyte.
    pub ratio: f64,
    /// The most bytes allocated for one input.
    pub most: usize,
    pub longest: Duration,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "execs {}, crashes 0, max alloc {} kB, max alloc beyond 1 MiB / input {:.1}, slowest {:.0} ms",
            self.execs,
            self.most / 1024,
            self.ratio,
            self.longest.as_secs_f64() * 1000.0
        )
    }
}

/// Feeds the seeds of a target, and mutations of them for so long.
///
/// # Panics
/// At the first input with which the target panics, allocates more than it may or takes too long; it is printed.
pub fn drive(target: &Target, time: Duration, seed: u64, heap: &Heap) -> Figures {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut figures = Figures::default();
    let started = Instant::now();
    for input in target.seeds {
        feed(target, input, seed, heap, &mut figures);
    }
    let mut pool: Vec<Vec<u8>> = target.seeds.iter().map(|seed| seed.to_vec()).collect();
    while started.elapsed() < time {
        let mut input = pool[random.usize(..pool.len())].clone();
        for _ in 0..random.usize(1..6) {
            mutate(&mut input, target.words, &pool, &mut random);
        }
        input.truncate(LONGEST);
        feed(target, &input, seed, heap, &mut figures);
        // What was mutated is mutated further, now and then.
        if random.u8(..) < 8 {
            if pool.len() < 512 {
                pool.push(input);
            } else {
                let at = random.usize(target.seeds.len()..pool.len());
                pool[at] = input;
            }
        }
    }
    figures
}

fn feed(target: &Target, input: &[u8], seed: u64, heap: &Heap, figures: &mut Figures) {
    let asked = Instant::now();
    let before = (heap.begin)();
    let done = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let allocated = (heap.peak)().saturating_sub(before);
    let took = asked.elapsed();
    figures.execs += 1;
    figures.most = figures.most.max(allocated);
    figures.longest = figures.longest.max(took);
    let beyond = allocated.saturating_sub(1 << 20) as f64 / input.len().max(1) as f64;
    figures.ratio = figures.ratio.max(beyond);
    let name = target.name;
    let shown = || format!("seed {seed}, input b\"{}\"", input.escape_ascii());
    assert!(done.is_ok(), "{name} panicked: {}", shown());
    assert!(took < PATIENCE, "{name} took {took:?}: {}", shown());
    let most = HEAP_BASE + input.len() * HEAP_FACTOR;
    assert!(allocated <= most, "{name} allocated {allocated} bytes, more than {most}: {}", shown());
}

fn mutate(input: &mut Vec<u8>, words: &[&[u8]], pool: &[Vec<u8>], random: &mut fastrand::Rng) {
    let at = random.usize(..=input.len());
    let end = random.usize(at..=input.len().min(at + 16));
    match random.u8(..10) {
        0 => drop(input.drain(at..end)),
        1 => input.truncate(at),
        2 => input.insert(at, random.u8(..)),
        3 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << random.u8(..8);
            }
        }
        4 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = random.u8(..);
            }
        }
        5 if !words.is_empty() => {
            let word = words[random.usize(..words.len())];
            input.splice(at..end, word.iter().copied());
        }
        6 if !words.is_empty() => {
            // Many of a kind: depth, length.
            let word = words[random.usize(..words.len())];
            let many = word.repeat(1 << random.u8(..9));
            input.splice(at..at, many);
        }
        7 => {
            let other = &pool[random.usize(..pool.len())];
            let from = random.usize(..=other.len());
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        8 => {
            let copied = input[at..end].to_vec();
            input.splice(at..at, copied);
        }
        _ => {
            // A number in place of a number.
            let numbers = [
                "-1",
                "0",
                "1",
                "127",
                "128",
                "16384",
                "65536",
                "2147483647",
                "4294967296",
                "9223372036854775807",
            ];
            let number = numbers[random.usize(..numbers.len())];
            if let Some(start) =
                input[at..].iter().position(u8::is_ascii_digit).map(|digit| at + digit)
            {
                let len = input[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                input.splice(start..start + len, number.bytes());
            }
        }
    }
}
