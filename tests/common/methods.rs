//! What the client and namespaces can do, for suites that leave nothing of it out.

use std::collections::BTreeSet;
use std::path::Path;

/// The names of the methods of the client and of namespaces, from their sources, so that a new one
/// cannot be forgotten there.
pub(crate) fn methods() -> BTreeSet<String> {
    // They touch no key.
    const NO_DATA: [&str; 6] = ["connect", "ping", "session", "close", "run", "stats"];
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeSet::new();
    let client = std::fs::read_dir(src.join("client"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .chain([src.join("client/load/mod.rs")]);
    for (file, of) in
        client.map(|file| (file, "")).chain([(src.join("namespace.rs"), "namespace.")])
    {
        let text = std::fs::read_to_string(&file).unwrap();
        for line in text.lines() {
            let line = line.trim_start();
            let name = line.strip_prefix("pub async fn ").or_else(|| {
                let name = line.strip_prefix("pub fn ")?;
                ["scan", "pipeline", "transaction"]
                    .iter()
                    .any(|is| name.starts_with(is))
                    .then_some(name)
            });
            let end = |name: &str| name.find(|c: char| !c.is_alphanumeric() && c != '_');
            let name = name.and_then(|name| Some(&name[..end(name)?]));
            if let Some(name) = name.filter(|name| !NO_DATA.contains(name)) {
                found.insert(format!("{of}{name}"));
            }
        }
    }
    assert!(found.len() > 30, "{found:?}");
    found
}
