//! Targets for everything that reads bytes from outside, and a loop that feeds them on a stable toolchain.

pub mod drive;
pub mod targets;
