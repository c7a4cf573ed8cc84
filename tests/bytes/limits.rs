//! What a reply takes of memory for each of its bytes, and that a process that has no more than that for it lives on.

use std::process::{Command, Stdio};
use std::time::Duration;

use larder::testing::readers;

use crate::crate_of_fuzz::drive::{Heap, drive};
use crate::crate_of_fuzz::targets::TARGETS;
use crate::replies::ANNOUNCED;
use crate::{TURN, begin, peak};

/// A little more than a list has room for that grows by doubling: while it is moved both places are there, so this is the worst.
const MANY: usize = (1 << 16) + 64;

/// What tests that do not measure may hold meanwhile.
const OTHERS: f64 = 256.0 * 1024.0;

/// Replies by the names that they have in the table of `docs/security.md`.
fn replies() -> Vec<(&'static str, String)> {
    let list = |element: &str| format!("*{MANY}\r\n{}", element.repeat(MANY));
    let map = |pair: &str| format!("%{MANY}\r\n{}", pair.repeat(MANY));
    // As deep as the driver goes.
    let deep = |level: &str, end: &str| {
        format!("*1000\r\n{}", format!("{}{end}", level.repeat(98)).repeat(1000))
    };
    vec![
        ("a text", format!("${}\r\n{}\r\n", 4_000_000, "x".repeat(4_000_000))),
        ("a status", format!("+{}\r\n", "x".repeat(4_000_000))),
        ("a list of texts of 100 bytes", list(&format!("$100\r\n{}\r\n", "x".repeat(100)))),
        ("a list of texts of a byte", list("$1\r\na\r\n")),
        ("a list of errors", list("-a\r\n")),
        ("a list of numbers, truths or empty lists", list(":1\r\n")),
        ("a list of nothing", list("_\r\n")),
        ("a map of nothing to nothing", map("_\r\n_\r\n")),
        ("lists within lists", deep("*1\r\n", "_\r\n")),
        ("maps within maps", deep("%1\r\n_\r\n", "_\r\n")),
    ]
}

/// The number behind a name in that table.
fn documented(page: &str, name: &str) -> f64 {
    let row = page.lines().find_map(|line| line.strip_prefix(&format!("| {name} | ")));
    let row = row.unwrap_or_else(|| panic!("docs/security.md has no row for {name}"));
    row.trim_end_matches(" |").parse().unwrap()
}

#[test]
fn what_a_reply_takes_for_each_of_its_bytes_is_what_the_docs_say() {
    let _turn = TURN.blocking_lock();
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/security.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut wrong = Vec::new();
    for (name, reply) in replies() {
        let before = begin();
        assert!(readers::is_reply(reply.as_bytes()), "{name}");
        let cost = peak() - before;
        let (ratio, said) = (cost as f64 / reply.len() as f64, documented(&page, name));
        println!(
            "P29 {name}: {} bytes cost {cost}, {ratio:.2} for each (docs: {said})",
            reply.len()
        );
        if cost as f64 > said * reply.len() as f64 + OTHERS || ratio < said * 0.8 {
            wrong.push(format!("{name}: {ratio:.2}, and the docs say {said}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Set in a process whose memory is bounded to so many bytes.
const BOUND: &str = "LARDER_BYTES_BOUND";

/// The other process; in a test run of its own it has no bound.
#[test]
fn somebody_who_has_little_memory() {
    let Ok(bound) = std::env::var(BOUND) else { return };
    let _turn = TURN.blocking_lock();
    // The witness: it has no more.
    assert!(Vec::<u8>::new().try_reserve_exact(bound.parse().unwrap()).is_err());
    for (header, is_nothing) in ANNOUNCED {
        assert_eq!(readers::is_reply(header.as_bytes()), is_nothing);
        // Announced within each other, so that what is set aside for one would be so for all.
        _ = readers::is_reply(header.repeat(100_000 / header.len()).as_bytes());
    }
    for (_, reply) in replies() {
        assert!(readers::is_reply(reply.as_bytes()));
    }
    let mut execs = 0;
    for target in &TARGETS {
        let time = Duration::from_millis(500);
        execs += drive(target, time, fastrand::u64(..), &Heap { begin, peak }).execs;
    }
    println!("> {execs}");
}

#[test]
fn a_process_with_little_memory_lives_on_whatever_it_is_sent() {
    const KIB: usize = 512 << 10;
    let own = std::env::current_exe().unwrap();
    let mut child = Command::new("sh");
    child.args(["-c", &format!("ulimit -v {KIB} && exec \"$@\""), "sh"]).arg(own);
    child.args(["--exact", "limits::somebody_who_has_little_memory", "--nocapture"]);
    // An arena for each thread sets addresses aside that nobody uses.
    child.env(BOUND, (KIB << 10).to_string()).env("MALLOC_ARENA_MAX", "1");
    let output = child.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}: {text}", output.status);
    let execs = text.split_once("> ").expect("it did nothing").1.lines().next().unwrap();
    println!("P29 with {} MiB of addresses: {execs} inputs, aborts 0", KIB >> 10);
    assert!(execs.parse::<u64>().unwrap() > 500, "{execs}");
}
