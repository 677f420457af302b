// SPDX-License-Identifier: MIT OR Apache-2.0
//! The libraries that `ferroce run` has programs load: the shim, and the plug-ins for libibverbs, one for
//! each private interface of it.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// Where they are.
#[derive(Debug)]
pub struct Plugins {
    /// The shim.
    pub shim: PathBuf,
    /// What libibverbs adds `-rdmavNN.so` to, NN its private interface.
    pub prefix: PathBuf,
}

impl Plugins {
    /// Finds them, or writes them.
    pub fn ensure() -> Result<Self> {
        let folder =
            std::env::var_os("FERROCE_PLUGIN_DIR").context("FERROCE_PLUGIN_DIR is not set")?;
        let folder = PathBuf::from(folder);
        Ok(Self {
            shim: folder.join("libferroce_shim.so"),
            prefix: folder.join("libferroce"),
        })
    }
}
