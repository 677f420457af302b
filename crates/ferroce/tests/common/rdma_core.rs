// SPDX-License-Identifier: MIT OR Apache-2.0
//! rdma-core's own tests: what they print, and which of them pass.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// The names of the tests that pass, one a line.
const PASSING: &str = include_str!("../lab/rdma-core-tests.txt");

/// Copies the tests into a folder, and returns the command that runs them on a device. Debian ships them as
/// documentation, some of them compressed.
pub fn run(folder: &Path, device: &str) -> String {
    let folder = folder.display();
    let unpack = format!(
        "set -e; from=$(dirname $(dpkg -L python3-pyverbs | grep 'tests/run_tests.py')); \
         cp -rL $from {folder}/tests; find {folder}/tests -name '*.gz' | xargs gunzip"
    );
    let unpacked = Command::new("sh").args(["-c", &unpack]).status();
    assert!(unpacked.expect("there is a shell").success(), "{unpack}");
    format!(
        "cd {folder}; timeout 1800 /usr/bin/python3 tests/run_tests.py -v --dev {device} --port 1 --gid 1 2>&1 || :"
    )
}

/// Checks that the tests pass that should, and that none fails, but for those whose names begin with one of
/// `not_here`, each with the reason.
pub fn check(output: &str, not_here: &[(&str, &str)]) {
    let results = results(output);
    let is_here = |name: &str| !not_here.iter().any(|(begin, _)| name.starts_with(begin));
    let not_passing: Vec<_> = PASSING
        .lines()
        .filter(|name| is_here(name) && results.get(*name) != Some(&"ok"))
        .map(|name| (name, results.get(name)))
        .collect();
    assert!(not_passing.is_empty(), "{not_passing:#?}\n{output}");
    let failed: Vec<_> = results
        .iter()
        .filter(|(name, result)| is_here(name) && matches!(**result, "FAIL" | "ERROR"))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}\n{output}");
}

/// What unittest prints for each test: `test_x (tests.test_y.Z)`, in newer versions with the test's name behind
/// `Z` as well; perhaps a line of what it is for; and the result.
fn results(output: &str) -> BTreeMap<String, &str> {
    let mut results = BTreeMap::new();
    let mut name = None;
    for line in output.lines() {
        if let Some((test, rest)) = line.split_once(" (tests.")
            && let Some((class, _)) = rest.split_once(')')
        {
            let last = format!(".{test}");
            name = Some(format!(
                "{}{last}",
                class.strip_suffix(&last).unwrap_or(class)
            ));
        }
        // A test that prints something itself has its result on the next line.
        let result = line.rsplit_once(" ... ").map_or(line, |(_, result)| result);
        let result = result.split_whitespace().next().unwrap_or_default();
        if ["ok", "FAIL", "ERROR", "skipped"].contains(&result)
            && let Some(name) = name.take()
        {
            results.insert(name, result);
        }
    }
    results
}
