//! The shape holds: dependencies point one way, and what the design keeps in one place stays there.

use std::fs;
use std::path::{Path, PathBuf};

/// The library's modules from the bottom to the top; a module may use those of its own line and below.
const LAYERS: [&[&str]; 8] = [
    &["error", "key", "key_part", "ttl"],
    &["op", "codec"],
    &["stats"],
    &["store"],
    &["near", "flight", "lease", "lock"],
    &["client"],
    &["namespace"],
    &["config", "global", "cached"],
];

/// Modules of one line that must not know each other.
const STRANGERS: [&str; 4] = ["near", "flight", "lease", "lock"];

struct Source {
    path: String,
    module: String,
    // Without comments, docs and tests, which stand in files of their own or at a file's end.
    code: Vec<String>,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources() -> Vec<Source> {
    sources_in(&root())
}

fn sources_in(root: &Path) -> Vec<Source> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(root, &mut found);
    found
        .into_iter()
        .map(|path| {
            let inside = path.strip_prefix(root).unwrap();
            let first = inside.components().next().unwrap().as_os_str().to_string_lossy();
            let text = fs::read_to_string(&path).unwrap();
            let code = text
                .replace("#[cfg(test)]\nmod tests;\n", "")
                .lines()
                .take_while(|line| line.trim() != "#[cfg(test)]")
                .map(|line| line.split("//").next().unwrap_or_default().to_owned())
                .collect();
            Source {
                path: inside.to_string_lossy().into_owned(),
                module: first.trim_end_matches(".rs").to_owned(),
                code,
            }
        })
        .collect()
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

/// How many `super` lead from a file's module to the root of the crate.
fn depth(path: &str) -> usize {
    path.trim_end_matches("/mod.rs").split('/').count()
}

/// The names behind `crate::` in a line.
fn used(line: &str) -> impl Iterator<Item = &str> {
    line.split("crate::").skip(1).map(|rest| {
        let end = rest.find(|one: char| !one.is_alphanumeric() && one != '_');
        &rest[..end.unwrap_or(rest.len())]
    })
}

#[test]
fn dependencies_point_one_way() {
    let mut edges = 0;
    let mut wrong = Vec::new();
    for source in sources() {
        if matches!(source.module.as_str(), "lib" | "testing") {
            continue;
        }
        let Some(from) = layer(&source.module) else {
            wrong.push(format!("{} is in no layer", source.path));
            continue;
        };
        // A way around `crate::`, which is all that is looked at below.
        let to_the_root = "super::".repeat(depth(&source.path));
        if source.code.iter().any(|line| line.contains(&to_the_root)) {
            wrong.push(format!("{} goes up to the root by {to_the_root}", source.path));
        }
        for name in source.code.iter().flat_map(|line| used(line)) {
            edges += 1;
            match layer(name) {
                None => {
                    wrong.push(format!("{} uses crate::{name}, which is no module", source.path))
                }
                Some(to) if to > from => wrong.push(format!("{} looks up to {name}", source.path)),
                Some(_)
                    if name != source.module
                        && STRANGERS.contains(&name)
                        && STRANGERS.contains(&source.module.as_str()) =>
                {
                    wrong.push(format!("{} knows {name}", source.path));
                }
                Some(_) => {}
            }
        }
    }
    assert!(edges > 100, "only {edges} uses were found: this test no longer sees the code");
    assert!(wrong.is_empty(), "{wrong:#?}");
    println!("architecture: {edges} uses, 0 upward");
}

#[test]
fn only_the_redis_store_names_the_driver_and_holds_lua() {
    for source in sources() {
        let inside = source.path.starts_with("store/redis");
        for line in &source.code {
            let names_driver = line.contains("redis::") && !line.contains("store::redis::");
            let own_module = line.contains("self::redis") || line.contains("super::redis::");
            let re_export = source.path == "lib.rs";
            let tests_it = source.module == "testing";
            assert!(
                !names_driver
                    || own_module
                    || inside
                    || re_export
                    || tests_it
                    || (source.path == "store/mod.rs"
                        && line.contains("pub use redis::RedisStore")),
                "{} names the driver: {line}",
                source.path
            );
            assert!(
                inside || !(line.contains("redis.call") || line.contains("redis.pcall")),
                "{} holds Lua: {line}",
                source.path
            );
        }
    }
}

#[test]
fn the_stores_do_not_know_each_other() {
    for source in sources() {
        let other = match source.path.as_str() {
            path if path.starts_with("store/redis") => "memory::",
            path if path.starts_with("store/memory") => "redis::",
            _ => continue,
        };
        for line in &source.code {
            assert!(!line.contains(other), "{} knows {other}: {line}", source.path);
        }
    }
}

#[test]
fn the_library_never_lists_or_flushes_everything() {
    for source in sources().into_iter().filter(|source| source.module != "testing") {
        for line in &source.code {
            for command in ["\"KEYS\"", "FLUSHALL", "FLUSHDB", "unsafe "] {
                assert!(!line.contains(command), "{} has {command}: {line}", source.path);
            }
        }
    }
}

/// Bad input 38: there is no panel that could be asked without a password, since nobody can be asked at all.
#[test]
fn nothing_of_the_library_or_the_command_listens() {
    let command = Path::new(env!("CARGO_MANIFEST_DIR")).join("cli/src");
    let (mut looked_at, mut for_tests) = (0, 0);
    for source in sources().into_iter().chain(sources_in(&command)) {
        looked_at += 1;
        for line in &source.code {
            for way in
                ["TcpListener", "UnixListener", "UdpSocket", "TcpSocket", "::bind(", ".listen("]
            {
                let listens = line.contains(way);
                // What tests of a cache need does: that is the witness.
                assert!(source.module == "testing" || !listens, "{} listens: {line}", source.path);
                for_tests += usize::from(listens);
            }
        }
    }
    assert!(looked_at > 100 && for_tests > 0, "{looked_at} files, {for_tests} lines for tests");
    println!("row 38: {looked_at} files, nothing listens but what is for tests");
}

/// Bad input 34: a clock that is set, by an hour or a year, moves no lease, no deadline and nothing that is near, since none of
/// them is counted by it. Who reads it, and for what:
#[test]
fn no_lease_deadline_or_near_value_is_counted_by_a_clock_that_can_be_set() {
    const READERS: [(&str, &str); 1] =
        [("store/memory/space.rs", "what fencing tokens begin with, once when the store is made")];
    // As times that are shown or were given, nothing is decided by them.
    const NAMED: [&str; 1] = ["client/lock_list.rs"];
    let (mut read, mut files) = (0, 0);
    for source in sources().into_iter().filter(|source| source.module != "testing") {
        files += 1;
        for line in &source.code {
            let reads = ["SystemTime::now", "UNIX_EPOCH.elapsed", "Utc::now", "Local::now"]
                .into_iter()
                .chain(["Timestamp::now", "Zoned::now", "ClockId::Realtime"])
                .any(|way| line.contains(way));
            let names = line.contains("SystemTime");
            let may_read = READERS.iter().any(|(path, _)| *path == source.path);
            read += usize::from(reads);
            assert!(!reads || may_read, "{} reads the wall clock: {line}", source.path);
            let may_name = may_read || NAMED.contains(&source.path.as_str());
            assert!(!names || may_name, "{} knows the wall clock: {line}", source.path);
        }
    }
    // The witness that the test still sees the code.
    assert_eq!(read, READERS.len());
    println!(
        "row 34: {files} files, the wall clock is read in {read}, for no lease, deadline or near value"
    );
}
