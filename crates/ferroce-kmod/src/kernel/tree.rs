// SPDX-License-Identifier: MIT OR Apache-2.0
//! The modules of a kernel by name: a build tree's, by `modules.order`, or
//! those below /lib/modules, by what depmod(8) wrote.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::linkage::name_of_path;

/// Where a kernel's modules are.
#[derive(Debug, Clone, Default)]
pub struct ModuleTree {
    root: PathBuf,
    paths: HashMap<String, PathBuf>,
    needs: HashMap<String, Vec<String>>,
    symbols: HashMap<String, String>,
    first: Option<PathBuf>,
}

impl ModuleTree {
    /// Of a folder /lib/modules/RELEASE. Without depmod's files there are no
    /// dependencies, and the modules are those of `modules.order`.
    pub fn installed(root: &Path) -> Self {
        let mut tree = Self {
            root: root.to_owned(),
            ..Self::default()
        };
        tree.read_order(|line| {
            let plain = root.join(line);
            let compressed = ["gz", "xz", "zst"].map(|x| root.join(format!("{line}.{x}")));
            let mut names = std::iter::once(plain.clone()).chain(compressed);
            names.find(|path| path.exists()).unwrap_or(plain)
        });
        let dep = fs::read_to_string(root.join("modules.dep")).unwrap_or_default();
        for line in dep.lines() {
            let Some((path, needs)) = line.split_once(':') else {
                continue;
            };
            let name = name_of_path(Path::new(path));
            let needs = needs.split_ascii_whitespace();
            let needs = needs.map(|path| name_of_path(Path::new(path))).collect();
            tree.needs.insert(name.clone(), needs);
            tree.paths.insert(name, root.join(path));
        }
        let symbols = fs::read_to_string(root.join("modules.symbols")).unwrap_or_default();
        for line in symbols.lines() {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            if let ["alias", symbol, module] = words[..]
                && let Some(symbol) = symbol.strip_prefix("symbol:")
            {
                tree.symbols.insert(symbol.to_owned(), module.to_owned());
            }
        }
        tree
    }

    /// Of the folder that a kernel was built in.
    pub fn built(root: &Path) -> Self {
        let mut tree = Self {
            root: root.to_owned(),
            ..Self::default()
        };
        tree.read_order(|line| root.join(line).with_extension("ko"));
        tree
    }

    fn read_order(&mut self, path: impl Fn(&str) -> PathBuf) {
        let order = fs::read_to_string(self.root.join("modules.order")).unwrap_or_default();
        for line in order.lines() {
            let path = path(line);
            self.first.get_or_insert_with(|| path.clone());
            self.paths.insert(name_of_path(&path), path);
        }
    }

    /// Where they are.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file of the module of that name; dashes are as good as underscores.
    pub fn path(&self, name: &str) -> Option<&Path> {
        let path = self.paths.get(&name.replace('-', "_"))?;
        Some(path)
    }

    /// The modules that one needs, all of them, as depmod found: those that
    /// are needed by others of them come last.
    pub fn needs(&self, name: &str) -> &[String] {
        self.needs.get(name).map_or(&[], Vec::as_slice)
    }

    /// The module that has a symbol, as depmod found.
    pub fn owner(&self, symbol: &str) -> Option<&str> {
        self.symbols.get(symbol).map(String::as_str)
    }

    /// One that was built with the kernel.
    pub(super) fn sample(&self) -> Option<&Path> {
        self.first.as_deref()
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.paths.iter().map(|(n, p)| (n.as_str(), p.as_path()))
    }
}
