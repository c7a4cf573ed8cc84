//! What the docs say is shown by a test is shown by a test that exists.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn pages() -> Vec<PathBuf> {
    let docs = std::fs::read_dir(root().join("docs")).unwrap();
    docs.map(|page| page.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "md"))
        .collect()
}

/// The tests that a part of a page names: `path/of/file.rs::name`, in backticks.
fn named(page: &str) -> impl Iterator<Item = (&str, &str)> {
    let code = page.split('`').skip(1).step_by(2);
    code.filter_map(|code| code.split_once("::"))
        .filter(|(file, _)| file.ends_with(".rs") && file.contains('/'))
}

/// Whether a file has a test of this name.
fn has_test(text: &str, name: &str) -> bool {
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some((_, rest)) = line.split_once("fn ") {
            if is_test && rest.split('(').next() == Some(name) {
                return true;
            }
            is_test = false;
        }
    }
    false
}

#[test]
fn every_test_that_the_docs_name_is_there() {
    let (mut count, mut missing) = (0, Vec::new());
    for path in pages() {
        let page = std::fs::read_to_string(&path).unwrap();
        for (file, name) in named(&page) {
            count += 1;
            let text = std::fs::read_to_string(root().join(file)).unwrap_or_default();
            if !has_test(&text, name) {
                missing.push(format!("{}: {file}::{name}", path.display()));
            }
        }
    }
    println!("{count} tests named in the docs, {} not there", missing.len());
    assert!(count >= 130, "failures.md and bad-inputs.md name their tests");
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn every_row_of_failures_names_its_test() {
    let page = std::fs::read_to_string(root().join("docs/failures.md")).unwrap();
    let (mut rows, mut without) = (0, Vec::new());
    for line in page.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        if cells.len() == 5 && !cells[0].trim().starts_with("what fails") {
            rows += 1;
            if named(cells[4]).count() == 0 {
                without.push(cells[0].to_owned());
            }
        }
    }
    assert!(rows >= 40, "{rows} rows");
    assert!(without.is_empty(), "{without:?}");
}

#[test]
fn every_bad_input_names_its_tests() {
    let page = std::fs::read_to_string(root().join("docs/bad-inputs.md")).unwrap();
    let mut rows = BTreeMap::new();
    for line in page.lines() {
        let cells: Vec<&str> = line.split(" | ").collect();
        let Some(Ok(row)) = cells[0].strip_prefix("| ").map(str::parse::<u32>) else { continue };
        let count = named(cells[cells.len() - 1]).count();
        assert!(rows.insert(row, count).is_none(), "row {row} stands there twice");
    }
    for row in 1..=39 {
        let count = rows.get(&row).copied().unwrap_or_else(|| panic!("row {row} is not there"));
        assert!(count > 0, "row {row} names no test");
    }
    println!("bad inputs: {} rows, each with its tests", rows.len());
}

#[test]
fn a_test_is_told_from_another_function() {
    let text = "#[tokio::test(flavor = \"x\")]\nasync fn one() {}\nfn other() {}";
    assert!(has_test(text, "one") && !has_test(text, "other") && !has_test(text, "on"));
    assert_eq!(named("`tests/a.rs::b` `x::y`").collect::<Vec<_>>(), [("tests/a.rs", "b")]);
}
