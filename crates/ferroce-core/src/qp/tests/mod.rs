// SPDX-License-Identifier: MIT OR Apache-2.0
mod modify;
mod state;
mod table;
