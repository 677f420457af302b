// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pages of the book: they render without warnings, and hold no code of their own.
//!
//! What they include is built and run by the lab's tests (`crates/ferroce/tests/lab/book.rs`).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ferroce_book::{build, root, source, LANGUAGES};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Keeps the warnings that mdBook logs.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        struct Text(String);
        impl Visit for Text {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                self.0 += &format!("{field}: {value:?} ");
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The names of a language's pages, in the order of its summary.
fn pages(language: &str) -> Vec<String> {
    let summary = fs::read_to_string(source(language).join("src/SUMMARY.md")).unwrap();
    let mut pages = Vec::new();
    for line in summary.lines() {
        if let Some((_, rest)) = line.split_once("](") {
            pages.push(rest.trim_end_matches(')').to_owned());
        }
    }
    pages
}

fn text(language: &str, page: &str) -> String {
    fs::read_to_string(source(language).join("src").join(page)).unwrap()
}

/// The fenced blocks of a page: the language of the code, and the lines.
fn blocks(text: &str) -> Vec<(String, Vec<String>)> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, Vec<String>)> = None;
    for line in text.lines() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(language), None) => open = Some((language.to_owned(), Vec::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some((_, lines))) => lines.push(line.to_owned()),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

/// What a line includes: a file, seen from the page, and a part of it.
fn included(line: &str) -> Option<(&str, Option<&str>)> {
    let path = line
        .trim()
        .strip_prefix("{{#include ")?
        .strip_suffix("}}")?;
    Some(match path.split_once(':') {
        Some((path, anchor)) => (path, Some(anchor)),
        None => (path, None),
    })
}

#[test]
fn the_book_renders_without_warnings() {
    for language in LANGUAGES {
        let folder = tempfile::tempdir().unwrap();
        let warnings = Warnings::default();
        tracing::subscriber::with_default(warnings.clone(), || {
            build(language, folder.path()).unwrap();
        });
        let warnings = warnings.0.lock().unwrap();
        assert!(warnings.is_empty(), "{language}: {warnings:#?}");
        for page in pages(language) {
            let html = folder.path().join(page).with_extension("html");
            let html = fs::read_to_string(html).unwrap();
            assert!(!html.contains("{{#"), "{language}: an include is left");
        }
    }
}

#[test]
fn pages_hold_no_code_but_what_they_include() {
    for language in LANGUAGES {
        for page in pages(language) {
            for (kind, lines) in blocks(&text(language, &page)) {
                // A picture, which is no code.
                if kind == "text" {
                    continue;
                }
                for line in lines.iter().filter(|line| !line.is_empty()) {
                    let (path, anchor) = included(line)
                        .unwrap_or_else(|| panic!("{language}/{page}: code of its own: {line}"));
                    let file = source(language).join("src").join(path);
                    let code = fs::read_to_string(&file)
                        .unwrap_or_else(|error| panic!("{language}/{page}: {path}: {error}"));
                    let Some(anchor) = anchor else { continue };
                    let begin = format!("ANCHOR: {anchor}");
                    let found = code
                        .lines()
                        .any(|l| l.trim_end_matches(" */").ends_with(&begin));
                    assert!(found, "{language}/{page}: {path} has no {begin}");
                }
            }
        }
    }
}

#[test]
fn all_languages_have_the_same_pages_with_the_same_code() {
    let [first, others @ ..] = LANGUAGES;
    for other in others {
        assert_eq!(pages(first), pages(other));
        for page in pages(first) {
            let code = |language| -> Vec<_> {
                let blocks = blocks(&text(language, &page)).into_iter();
                blocks.filter(|(kind, _)| kind != "text").collect()
            };
            assert_eq!(code(first), code(other), "{page}");
        }
    }
}

#[test]
fn every_session_is_on_a_page() {
    let folder = root().join("docs/book/sessions");
    let there: BTreeSet<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().canonicalize().unwrap())
        .collect();
    for language in LANGUAGES {
        let mut shown = BTreeSet::new();
        for page in pages(language) {
            for (_, lines) in blocks(&text(language, &page)) {
                for (path, _) in lines.iter().filter_map(|line| included(line)) {
                    let path = source(language).join("src").join(path);
                    shown.insert(path.canonicalize().unwrap());
                }
            }
        }
        let left: Vec<_> = there.difference(&shown).collect();
        assert!(left.is_empty(), "{language} does not show {left:?}");
    }
}

#[test]
fn links_lead_to_pages() {
    for language in LANGUAGES {
        for page in pages(language) {
            for (at, _) in text(language, &page).match_indices("](") {
                let rest = text(language, &page).split_off(at + 2);
                let target = rest.split(')').next().unwrap_or_default().to_owned();
                let is_elsewhere = target.starts_with("https://") || target.starts_with('#');
                let file = target.split('#').next().unwrap_or_default();
                let path = Path::new(file);
                assert!(
                    is_elsewhere || source(language).join("src").join(path).is_file(),
                    "{language}/{page}: {target}"
                );
            }
        }
    }
}
