//! What the documentation promises to be shown by a test must be shown by one that exists.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context, Result, ensure};

/// The behaviours that `docs/nova-behaviours.md` must speak of, by number.
const BEHAVIOURS: &[std::ops::RangeInclusive<u32>] = &[1..=70, 73..=110, 112..=118, 123..=123, 135..=144];

#[test]
fn every_behaviour_of_nova_is_shown_by_a_test_or_has_a_reason() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace is above")?;
    let table = fs::read_to_string(root.join("docs/nova-behaviours.md"))?;
    let tests = tests_below(root)?;
    let mut rows = BTreeMap::new();
    for line in table.lines().filter(|line| line.starts_with("| LM-")) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [behaviour, _, ours, shown] = cells[..] else { anyhow::bail!("four cells were expected: {line}") };
        let number: u32 = behaviour.trim_start_matches("LM-").parse().with_context(|| line.to_owned())?;
        ensure!(rows.insert(number, ()).is_none(), "{behaviour} is there twice");
        // What is in backquotes is a test's name.
        let named: Vec<_> = shown.split('`').skip(1).step_by(2).collect();
        for name in &named {
            ensure!(tests.contains(*name), "{behaviour}: there is no test `{name}`");
        }
        let excused = ["other:", "not yet:", "not here:"].iter().any(|excuse| ours.starts_with(excuse));
        ensure!(!named.is_empty() || excused, "{behaviour} has neither a test nor a reason: {line}");
    }
    for number in BEHAVIOURS.iter().cloned().flatten() {
        ensure!(rows.contains_key(&number), "LM-{number:03} is not in the table");
    }
    Ok(())
}

/// What each cell of a row of `docs/outcomes.md` says, and whether it may be empty.
const OUTCOME: [(&str, bool); 7] = [
    ("number", false),
    ("fault", false),
    ("what is seen", false),
    ("where the guest is", false),
    ("what happens by itself", true),
    ("what to do", true),
    ("tests", false),
];

#[test]
fn every_outcome_of_a_fault_is_shown_by_a_test_and_its_codes_are_explained() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace is above")?;
    let page = fs::read_to_string(root.join("docs/outcomes.md"))?;
    let errors = fs::read_to_string(root.join("docs/errors.md"))?;
    let codes: BTreeSet<_> = errors.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')).collect();
    let tests = tests_below(root)?;
    let is_code = |word: &str| word.contains('_') && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    let mut last = 0;
    for line in page.lines().filter(|line| line.starts_with("| O-")) {
        let row = line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>();
        ensure!(row.len() == OUTCOME.len(), "{} cells were expected: {line}", OUTCOME.len());
        for (cell, (what, may_be_empty)) in row.iter().zip(OUTCOME) {
            ensure!(may_be_empty || !cell.is_empty(), "{what} is not said: {line}");
        }
        let number: u32 = row[0].trim_start_matches("O-").parse().with_context(|| line.to_owned())?;
        ensure!(number > last, "{} does not come after O-{last:02}", row[0]);
        last = number;
        let words = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        let named = words(row[6]);
        ensure!(!named.is_empty(), "{} is shown by no test", row[0]);
        for name in named {
            ensure!(tests.contains(&name), "{}: there is no test `{name}`", row[0]);
        }
        for code in row[..6].iter().flat_map(|cell| words(cell)).filter(|word| is_code(word)) {
            ensure!(codes.contains(code.as_str()), "{}: docs/errors.md does not explain `{code}`", row[0]);
        }
    }
    ensure!(last > 0, "there is no row");
    Ok(())
}

/// The names of all test functions of the workspace.
fn tests_below(root: &Path) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let mut directories: Vec<_> = ["core", "proto", "transport", "registry", "agent", "coordinator", "client", "tests"]
        .map(|member| root.join(member))
        .into();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                names.extend(tests_in(&fs::read_to_string(&path)?));
            }
        }
    }
    Ok(names)
}

/// A test is a function below an attribute that ends in `test`.
fn tests_in(source: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut below_test = false;
    for line in source.lines().map(str::trim) {
        if line.starts_with("#[") {
            let attribute = line.trim_start_matches("#[").split(['(', ']']).next().unwrap_or_default();
            below_test |= attribute == "test" || attribute.ends_with("::test");
        } else if let Some(rest) =
            line.trim_start_matches("pub(crate) ").trim_start_matches("async ").strip_prefix("fn ")
        {
            if below_test {
                names.extend(rest.split(['(', '<']).next().map(str::to_owned));
            }
            below_test = false;
        }
    }
    names
}
