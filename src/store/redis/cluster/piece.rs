//! The pieces of a batch: each is of one slot and goes to one node as a whole.

use std::collections::HashMap;
use std::sync::Arc;

use redis::{Cmd, Value};

use super::super::{command, failure, reply};
use super::node::Node;
use super::scan;
use super::topology::Map;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::op::{Batch, Op, Reply, Vouch};

/// What goes to one node as a whole.
pub(super) struct Piece<'a> {
    // Its operation's place in the batch.
    pub(super) at: usize,
    pub(super) part: Part<'a>,
    pub(super) place: Place,
    pub(super) form: Form,
    pub(super) route: Route,
    pub(super) hops: u32,
    // Why it is still on its way.
    pub(super) refused: Option<Error>,
    pub(super) split: bool,
    pub(super) done: Option<Done>,
}

pub(super) struct Done {
    pub(super) result: Result<Reply>,
    pub(super) vouch: Option<Vouch>,
    // Whether no answer came.
    pub(super) silent: bool,
}

/// Which part of an operation a piece is.
pub(super) enum Part<'a> {
    Whole(&'a Op),
    /// The same for some of its keys, which have these places among all.
    Some(Op, Vec<usize>),
}

impl Part<'_> {
    pub(super) fn op(&self) -> &Op {
        match self {
            Self::Whole(op) => op,
            Self::Some(op, _) => op,
        }
    }
}

/// Where a piece belongs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Slot(u16),
    /// To the node that the writes to this slot went to before.
    Behind(u16),
    Scan {
        number: u16,
        cursor: u64,
    },
    Anywhere,
}

/// As what a piece is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    /// While a slot moves nobody runs what needs two of its keys. What deletes a key or writes over it then does so as other
    /// languages do, in this order: the lease, then the key.
    LeaseFirst,
    ThenKey,
    /// All operations of the batch, between MULTI and EXEC.
    Atomic,
}

/// Who is asked next.
pub(super) enum Route {
    Owner,
    /// One of the owner's replicas, once.
    Replica(Arc<Node>),
    To(Arc<Node>),
    /// Before the slot is its own.
    Asking(Arc<Node>),
}

impl<'a> Piece<'a> {
    pub(super) fn new(at: usize, part: Part<'a>, place: Place, form: Form) -> Self {
        Self {
            at,
            part,
            place,
            form,
            route: Route::Owner,
            hops: 0,
            refused: None,
            split: false,
            done: None,
        }
    }

    pub(super) fn end(&mut self, result: Result<Reply>, vouch: Option<Vouch>) {
        self.done = Some(Done { result, vouch, silent: false });
    }

    pub(super) fn each_command(&self, mut add: impl FnMut(Cmd)) {
        let op = self.part.op();
        match (self.form, op, op.keys()) {
            (Form::LeaseFirst, _, [key]) => add(delete(&key.lease())),
            (Form::ThenKey, Op::Overwrite { key, value, expiry }, _) => {
                let (key, value, expiry) = (key.clone(), value.clone(), *expiry);
                command::each(&Op::Set { key, value, expiry, only_if: None }, add);
            }
            (Form::ThenKey, _, [key]) => add(delete(key)),
            _ => match (op, self.place) {
                (Op::Scan { prefix, count, .. }, Place::Scan { cursor, .. }) => {
                    let (prefix, count) = (prefix.clone(), *count);
                    command::each(&Op::Scan { cursor, prefix, count }, add);
                }
                _ => command::each(op, add),
            },
        }
    }

    pub(super) fn hear(&mut self, map: &Map, answers: Vec<Value>, vouch: Option<Vouch>) {
        if self.form == Form::LeaseFirst {
            match &answers[..] {
                [Value::Int(_)] => {
                    self.form = Form::ThenKey;
                    self.route = Route::Owner;
                }
                [Value::ServerError(error)] => self.end(Err(failure::refused(error)), None),
                _ => self.end(Err(reply::unexpected()), None),
            }
            return;
        }
        let result = reply::answer(self.part.op(), &mut answers.into_iter());
        let result = match (result, self.place) {
            (Ok(Reply::Keys { cursor, keys }), Place::Scan { number, .. }) => {
                scan::next(map, number, cursor).map(|cursor| Reply::Keys { cursor, keys })
            }
            (result, _) => result,
        };
        self.end(result, vouch);
    }

    /// A piece for each key, if some are here and some there.
    pub(super) fn split_up(mut self) -> Vec<Self> {
        if !std::mem::take(&mut self.split) {
            return vec![self];
        }
        let (op, places) = match self.part {
            Part::Whole(op) => (op.clone(), (0..op.keys().len()).collect()),
            Part::Some(op, places) => (op, places),
        };
        let form = if matches!(op, Op::Delete { .. }) { Form::LeaseFirst } else { Form::Plain };
        let (at, place) = (self.at, self.place);
        let one = |(key, place_of): (&Key, usize)| {
            let part = Part::Some(with_keys(&op, vec![key.clone()]), vec![place_of]);
            Piece::new(at, part, place, form)
        };
        op.keys().iter().zip(places).map(one).collect()
    }
}

fn delete(key: &Key) -> Cmd {
    let mut cmd = redis::cmd("DEL");
    cmd.arg(key.as_bytes());
    cmd
}

/// The same operation on other keys.
fn with_keys(op: &Op, keys: Vec<Key>) -> Op {
    match op {
        Op::GetMany { .. } => Op::GetMany { keys },
        Op::Delete { .. } => Op::Delete { keys },
        Op::Fetch { .. } => Op::Fetch { keys },
        op => op.clone(),
    }
}

/// Adds the pieces of an operation.
pub(super) fn cut<'a>(at: usize, op: &'a Op, pieces: &mut Vec<Piece<'a>>) {
    let place = match (op, op.keys()) {
        (Op::Scan { cursor, .. }, _) => {
            let (number, cursor) = scan::parts(*cursor);
            Place::Scan { number, cursor }
        }
        (Op::Replicated { .. }, _) => {
            let mut slots: Vec<u16> = pieces
                .iter()
                .filter_map(|piece| match piece.place {
                    Place::Slot(slot) => Some(slot),
                    _ => None,
                })
                .collect();
            slots.sort_unstable();
            slots.dedup();
            if let [first, rest @ ..] = &slots[..] {
                for slot in rest {
                    let place = Place::Behind(*slot);
                    pieces.push(Piece::new(at, Part::Whole(op), place, Form::Plain));
                }
                Place::Behind(*first)
            } else {
                Place::Anywhere
            }
        }
        (_, []) => Place::Anywhere,
        (_, [key]) => Place::Slot(key.slot()),
        (_, keys) => {
            let mut parts: Vec<(u16, Vec<usize>)> = Vec::new();
            let mut known = HashMap::new();
            for (place, key) in keys.iter().enumerate() {
                let slot = key.slot();
                let part = *known.entry(slot).or_insert_with(|| {
                    parts.push((slot, Vec::new()));
                    parts.len() - 1
                });
                parts[part].1.push(place);
            }
            if let [(slot, _)] = parts[..] {
                Place::Slot(slot)
            } else {
                for (slot, places) in parts {
                    let some = places.iter().map(|place| keys[*place].clone()).collect();
                    let part = Part::Some(with_keys(op, some), places);
                    pieces.push(Piece::new(at, part, Place::Slot(slot), Form::Plain));
                }
                return;
            }
        }
    };
    pieces.push(Piece::new(at, Part::Whole(op), place, Form::Plain));
}

/// The slot of all keys of an atomic batch.
pub(super) fn one_slot(batch: &Batch) -> Result<Option<u16>> {
    if batch.ops().iter().any(|op| matches!(op, Op::Scan { .. })) {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            "a scan goes over all nodes of the cluster, so it cannot be part of a transaction",
        ));
    }
    let mut keys = batch.ops().iter().flat_map(Op::keys);
    let Some(first) = keys.next().map(Key::slot) else { return Ok(None) };
    if keys.all(|key| key.slot() == first) {
        return Ok(Some(first));
    }
    Err(Error::new(
        ErrorKind::InvalidInput,
        "the transaction's keys are in several slots of the cluster; give them a hash tag in common, as in \
         {user:7}:cart and {user:7}:name",
    ))
}
