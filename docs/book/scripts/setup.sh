# SPDX-License-Identifier: MIT OR Apache-2.0
# How a reader of the book begins, in the repository's folder.
set -e

# ANCHOR: setup
cargo build --release
export PATH="$PWD/target/release:$PATH"
ferroce lab build --verbs
# ANCHOR_END: setup
