//! Vouching: a store's promise to tell of changes, for as long as it can keep it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// A store's promise to tell the sinks of every change to what it answered under it. Once it has ended, what
/// was kept on its strength is void, at once and without anybody being told.
///
/// One vouch stands for one connection and one stretch of time (an epoch); its copies end together. Copying it and
/// asking whether it holds cost no more than one load of memory that nobody writes meanwhile, since that is done for
/// every value that is served from near.
///
/// A store ends every vouch that it gave, at the latest when it is dropped: one that is never ended costs 4 bytes for
/// the rest of the process.
#[derive(Debug, Clone, Copy)]
pub struct Vouch {
    // It holds for as long as the cell shows its generation.
    cell: &'static AtomicU32,
    generation: u32,
}

/// The cells of vouches that have ended. So there are never more cells than vouches that held at the same time.
static ENDED: Mutex<Vec<&'static AtomicU32>> = Mutex::new(Vec::new());

impl Vouch {
    /// A promise that holds.
    pub fn new() -> Self {
        let used = ENDED.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let cell = used.unwrap_or_else(|| Box::leak(Box::default()));
        Self { cell, generation: cell.load(Ordering::Acquire) }
    }

    /// Whether it still holds.
    #[inline]
    pub fn holds(&self) -> bool {
        self.cell.load(Ordering::Acquire) == self.generation
    }

    /// Ends it.
    pub fn end(&self) {
        let next = self.generation.wrapping_add(1);
        let ended =
            self.cell.compare_exchange(self.generation, next, Ordering::AcqRel, Ordering::Relaxed);
        // A cell that has shown all of its generations is used up: the next would be taken for the first.
        if ended.is_ok() && next != u32::MAX {
            ENDED.lock().unwrap_or_else(PoisonError::into_inner).push(self.cell);
        }
    }

    /// A form without padding, for who keeps many.
    #[inline]
    pub(crate) fn parts(self) -> (&'static AtomicU32, u32) {
        (self.cell, self.generation)
    }

    /// What [`parts`](Self::parts) took apart.
    #[inline]
    pub(crate) fn of_parts(cell: &'static AtomicU32, generation: u32) -> Self {
        Self { cell, generation }
    }

    /// Whether both are the same promise.
    pub fn is(&self, other: &Self) -> bool {
        std::ptr::eq(self.cell, other.cell) && self.generation == other.generation
    }
}

impl Default for Vouch {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_end_together_and_a_cell_that_is_used_again_does_not_bring_them_back() {
        let one = Vouch::new();
        let copy = one;
        assert!(one.holds() && copy.holds() && one.is(&copy));
        copy.end();
        assert!(!one.holds() && !copy.holds());
        let later: Vec<Vouch> = (0..100).map(|_| Vouch::new()).collect();
        assert!(later.iter().all(|vouch| vouch.holds() && !vouch.is(&one)));
        one.end();
        assert!(!one.holds() && later.iter().all(Vouch::holds), "ending twice ends nobody else's");
        later.iter().for_each(Vouch::end);
        assert!(!later.iter().any(Vouch::holds));
    }

    #[test]
    fn cells_are_used_again() {
        let cells: std::collections::HashSet<usize> = (0..1_000)
            .map(|_| {
                let vouch = Vouch::new();
                vouch.end();
                std::ptr::from_ref(vouch.cell).addr()
            })
            .collect();
        // Other tests take cells meanwhile.
        assert!(cells.len() < 500, "{} cells", cells.len());
    }
}
