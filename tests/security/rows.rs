//! Every row of `docs/bad-inputs.md` names tests that exist.

use std::collections::BTreeMap;

use crate::text_of;

/// What does not exist yet, or only in part, and says so.
const LATER: [u32; 2] = [17, 38];

#[test]
fn every_bad_input_has_a_test_that_exists() {
    let docs = text_of("docs/bad-inputs.md");
    let mut rows = BTreeMap::new();
    let (mut tests, mut missing) = (0, Vec::new());
    for line in docs.lines() {
        let cells: Vec<&str> = line.split(" | ").collect();
        let Some(Ok(row)) = cells[0].strip_prefix("| ").map(str::parse::<u32>) else { continue };
        let named: Vec<&str> =
            cells[cells.len() - 1].split('`').filter(|word| word.contains("::")).collect();
        for test in &named {
            let (file, function) = test.rsplit_once("::").unwrap();
            let source = text_of(file);
            let marks = [format!("fn {function}("), format!("fn {function}(\n")];
            if !marks.iter().any(|mark| source.contains(mark)) {
                missing.push(format!("row {row}: {test}"));
            }
            tests += 1;
        }
        assert!(rows.insert(row, named.len()).is_none(), "row {row} stands there twice");
    }
    assert!(missing.is_empty(), "{missing:#?}");
    for row in 1..=39 {
        let count = rows.get(&row).copied().unwrap_or_else(|| panic!("row {row} is not there"));
        assert_eq!(count == 0, LATER.contains(&row), "row {row} has {count} tests");
    }
    println!(
        "bad inputs: {} rows, {tests} tests named, 0 missing, {LATER:?} not there yet",
        rows.len()
    );
}
