//! Attacks: hostile use, servers and settings that once did harm. Every test names what used to happen, or
//! what must not.

mod documents;
mod loads;
mod origins;
mod runtimes;
mod servers;
mod settings;
