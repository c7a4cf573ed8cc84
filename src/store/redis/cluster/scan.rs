//! Scans go over one node after the other. The cursor says over which: its upper bits are the node's number, the lower ones
//! the node's own cursor.

use std::sync::Arc;

use super::node::Node;
use super::topology::Map;
use crate::error::{Error, ErrorKind, Result};

/// A server's cursor has as many bits as its table, and some for the slot: 52 are enough for a billion keys in each.
const CURSOR_BITS: u32 = 52;

/// How many nodes can be told apart.
pub(super) const NUMBERS: usize = 1 << (u64::BITS - CURSOR_BITS);

/// A cursor's node and the node's own cursor.
pub(super) fn parts(cursor: u64) -> (u16, u64) {
    ((cursor >> CURSOR_BITS) as u16, cursor & ((1 << CURSOR_BITS) - 1))
}

/// Where a scan goes on: at this node, or, if it is gone, at the beginning of the next one.
pub(super) fn node(map: &Map, number: u16, cursor: u64) -> Option<(&Arc<Node>, u64)> {
    let node =
        map.nodes().iter().filter(|node| node.number >= number).min_by_key(|node| node.number)?;
    Some((node, if node.number == number { cursor } else { 0 }))
}

/// The cursor behind an answer of a node.
pub(super) fn next(map: &Map, number: u16, cursor: u64) -> Result<u64> {
    if cursor >> CURSOR_BITS != 0 {
        return Err(Error::new(
            ErrorKind::Protocol,
            "the cursor of a scan is larger than any table",
        ));
    }
    let number = match cursor {
        0 => match node(map, number + 1, 0) {
            Some((node, _)) => node.number,
            None => return Ok(0),
        },
        _ => number,
    };
    Ok((u64::from(number) << CURSOR_BITS) | cursor)
}
