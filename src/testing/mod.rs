//! Tools for tests, behind the feature `testing`: what larder tests itself with, for the tests of
//! your stores and services.

pub mod conformance;
