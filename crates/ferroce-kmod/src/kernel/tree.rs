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
        if !tree.paths.values().any(|path| path.exists()) {
            // A package that was unpacked, and not installed.
            tree.walk();
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

    /// Those that were built with the kernel, for what all of them have: a
    /// package may have only some of what `modules.order` has.
    pub(super) fn own(&self) -> impl Iterator<Item = &Path> {
        let paths = || self.paths.values().map(PathBuf::as_path);
        // Installed, the kernel's own are below `kernel`, beside others.
        let installed = self.root.join("kernel").join("");
        let is_own = |path: &&Path| path.starts_with(&installed);
        let all = !paths().any(|path| is_own(&path));
        let mut own: Vec<&Path> = paths().filter(|path| all || is_own(path)).collect();
        own.sort();
        own.into_iter()
    }

    /// Takes the modules that are in the folder, whatever lists them.
    fn walk(&mut self) {
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(path),
                    Ok(kind) if kind.is_file() && is_module(&path) => {
                        self.paths.insert(name_of_path(&path), path);
                    }
                    _ => {}
                }
            }
        }
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.paths.iter().map(|(n, p)| (n.as_str(), p.as_path()))
    }
}

/// Whether a file is a module by its name, compressed or not.
pub fn is_module(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    [".ko", ".ko.gz", ".ko.xz", ".ko.zst"]
        .iter()
        .any(|ending| name.ends_with(ending))
}

/// The file of the module of that name in a folder, where its file may have
/// dashes, and be compressed.
pub fn beside(folder: &Path, name: &str) -> Option<PathBuf> {
    let name = name.replace('-', "_");
    let files = fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.path());
    let mut files: Vec<_> = files
        .filter(|path| is_module(path) && name_of_path(path) == name)
        .collect();
    files.sort();
    files.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// modules.order of a distribution has modules that are in other packages,
    /// and an unpacked package has no modules.dep.
    #[test]
    fn compressed_modules_are_found_without_depmods_files() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("kernel/fs")).unwrap();
        fs::write(root.join("kernel/fs/fat-fs.ko.xz"), "").unwrap();
        fs::write(root.join("modules.order"), "kernel/fs/other.ko\n").unwrap();
        let tree = ModuleTree::installed(root);
        let path = root.join("kernel/fs/fat-fs.ko.xz");
        assert_eq!(tree.path("fat_fs"), Some(path.as_path()));
        assert!(tree.own().any(|own| own == path));
        assert_eq!(beside(&root.join("kernel/fs"), "fat_fs"), Some(path));
    }
}
