//! A batch on its way through a cluster: cut into pieces of one slot each, sent, sent on, and put together again.

use std::sync::Arc;

use redis::{Arg, Cmd, Pipeline, Value};

use super::super::{command, failure};
use super::node::Node;
use super::piece::{Done, Form, Part, Piece, Place, Route, cut, one_slot};
use super::refusal::{self, Refusal};
use super::scan;
use super::together::{answer_to_all, one_vouch, together};
use super::topology::Map;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::op::{Batch, Lane, Op, Replies, Reply, Vouch};

/// How often a call is sent on before it is an error: once for a slot that moved, some more for one that moves back, and with
/// pauses for as long as nodes take to tell each other. It takes 0.5 to 1.1 s, if the deadline does not end it before.
const MOST_HOPS: u32 = 16;

/// A batch on its way.
pub(super) struct Trip<'a> {
    batch: &'a Batch,
    // In the order of the batch.
    pieces: Vec<Piece<'a>>,
    // Of an atomic batch, which is one piece.
    whole: Option<Result<Replies>>,
    /// Whether anything of it was answered with more than a refusal, or may have been.
    pub(super) touched: bool,
}

/// The pieces that go to one node, and their commands.
pub(super) struct Group {
    pub(super) node: Arc<Node>,
    pub(super) request: Packed,
    /// The slots of what it reads.
    pub(super) slots: Vec<u16>,
    pieces: Vec<usize>,
}

pub(super) enum Packed {
    One(Cmd),
    Many(Pipeline),
}

impl Packed {
    /// About how many bytes it is.
    pub(super) fn bytes(&self) -> usize {
        let of = |cmd: &Cmd| {
            let args = cmd.args_iter().map(|arg| match arg {
                Arg::Simple(arg) => arg.len(),
                _ => 0,
            });
            args.sum::<usize>()
        };
        match self {
            Self::One(cmd) => of(cmd),
            Self::Many(pipeline) => pipeline.cmd_iter().map(of).sum(),
        }
    }
}

/// What is to be done before the pieces that are left are sent.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Next {
    /// Nothing.
    #[default]
    Send,
    /// To wait a moment.
    Pause,
    /// To find out who serves what.
    Learn,
}

/// A piece that was refused.
pub(super) struct Refused {
    pub(super) piece: usize,
    pub(super) why: Result<Refusal>,
}

impl<'a> Trip<'a> {
    /// Cuts a batch into pieces.
    ///
    /// # Errors
    /// An atomic batch whose keys are in several slots.
    pub(super) fn plan(batch: &'a Batch) -> Result<Self> {
        let mut pieces = Vec::with_capacity(batch.ops().len());
        if batch.is_atomic() {
            if let Some(op) = batch.ops().first() {
                let place = one_slot(batch)?.map_or(Place::Anywhere, Place::Slot);
                pieces.push(Piece::new(0, Part::Whole(op), place, Form::Atomic));
            }
        } else {
            for (at, op) in batch.ops().iter().enumerate() {
                cut(at, op, &mut pieces);
            }
        }
        Ok(Self { batch, pieces, whole: None, touched: false })
    }

    pub(super) fn is_over(&self) -> bool {
        self.pieces.iter().all(|piece| piece.done.is_some())
    }

    /// Has reads go to replicas first, if nothing else is in the batch.
    pub(super) fn prefer_replicas(&mut self, map: &Map) {
        if !may_go_to_replicas(self.batch) {
            return;
        }
        for piece in &mut self.pieces {
            if let Place::Slot(slot) = piece.place
                && let Some(reader) = map.reader(slot)
            {
                piece.route = Route::Replica(Arc::clone(reader));
            }
        }
    }

    /// Who is to be sent what. `anybody` gives a node for what every node can do.
    pub(super) fn groups(
        &mut self,
        map: &Map,
        anybody: impl FnOnce() -> Option<Arc<Node>>,
    ) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let mut anywhere = Vec::new();
        for (at, piece) in self.pieces.iter_mut().enumerate() {
            if piece.done.is_some() {
                continue;
            }
            let node = match (&piece.route, piece.place) {
                (Route::To(node) | Route::Asking(node) | Route::Replica(node), _) => {
                    Arc::clone(node)
                }
                (Route::Owner, Place::Slot(slot) | Place::Behind(slot)) => match map.owner(slot) {
                    Some(node) => Arc::clone(node),
                    None => {
                        piece.refused = Some(refusal::hole(slot));
                        continue;
                    }
                },
                (Route::Owner, Place::Scan { number, cursor }) => {
                    match scan::node(map, number, cursor) {
                        Some((node, cursor)) => {
                            piece.place = Place::Scan { number: node.number, cursor };
                            Arc::clone(node)
                        }
                        None => {
                            piece.end(Ok(Reply::Keys { cursor: 0, keys: Vec::new() }), None);
                            continue;
                        }
                    }
                }
                (Route::Owner, Place::Anywhere) => {
                    anywhere.push(at);
                    continue;
                }
            };
            match groups.iter_mut().find(|group| Arc::ptr_eq(&group.node, &node)) {
                Some(group) => group.pieces.push(at),
                None => groups.push(Group::new(node, at)),
            }
        }
        if let Some(first) = anywhere.first() {
            if groups.is_empty()
                && let Some(node) = anybody()
            {
                groups.push(Group::new(node, *first));
                anywhere.remove(0);
            }
            if let Some(group) = groups.first_mut() {
                group.pieces.extend(anywhere);
                group.pieces.sort_unstable();
            }
        }
        for group in &mut groups {
            self.pack(group);
        }
        groups
    }

    /// Writes down the commands of a group.
    fn pack(&self, group: &mut Group) {
        let mut commands = Vec::with_capacity(group.pieces.len());
        for at in &group.pieces {
            let piece = &self.pieces[*at];
            if let Place::Slot(slot) = piece.place {
                group.slots.push(slot);
            }
            let asking = matches!(piece.route, Route::Asking(_));
            if piece.form == Form::Atomic {
                if asking {
                    commands.push(redis::cmd("ASKING"));
                }
                commands.push(redis::cmd("MULTI"));
                self.batch.ops().iter().for_each(|op| command::each(op, |cmd| commands.push(cmd)));
                commands.push(redis::cmd("EXEC"));
                continue;
            }
            piece.each_command(|cmd| {
                if asking {
                    commands.push(redis::cmd("ASKING"));
                }
                commands.push(cmd);
            });
        }
        group.request = match commands.len() {
            1 => Packed::One(commands.remove(0)),
            count => {
                let mut pipeline = Pipeline::with_capacity(count);
                commands.into_iter().for_each(|cmd| _ = pipeline.add_command(cmd));
                Packed::Many(pipeline)
            }
        };
    }

    /// Takes the answers to a group. What was refused is left to be followed.
    pub(super) fn hear(
        &mut self,
        map: &Map,
        group: &Group,
        values: Vec<Value>,
        vouch: Option<Vouch>,
    ) -> Vec<Refused> {
        let asked = group.node.address();
        let mut values = values.into_iter();
        let mut refused = Vec::new();
        for at in group.pieces.iter().copied() {
            let piece = &mut self.pieces[at];
            let asking = matches!(piece.route, Route::Asking(_));
            if piece.form == Form::Atomic {
                if asking {
                    values.next();
                }
                match answer_to_all(self.batch, values.by_ref().collect(), asked) {
                    Ok(whole) => {
                        piece.end(Ok(Reply::Done), vouch);
                        self.whole = Some(whole);
                        self.touched = true;
                    }
                    Err(why) => refused.push(Refused { piece: at, why }),
                }
                continue;
            }
            let mut answers = Vec::with_capacity(1);
            piece.each_command(|_| {
                if asking {
                    values.next();
                }
                answers.push(values.next().unwrap_or(Value::Nil));
            });
            match answers.iter().find_map(|answer| Refusal::within(answer, asked)) {
                Some(why) => refused.push(Refused { piece: at, why }),
                None => {
                    self.touched = true;
                    piece.hear(map, answers, vouch);
                }
            }
        }
        refused
    }

    /// A piece goes to another node.
    pub(super) fn send_on(&mut self, at: usize, to: Arc<Node>, asking: bool) -> Next {
        let piece = &mut self.pieces[at];
        piece.hops += 1;
        if piece.hops > MOST_HOPS {
            piece.end(Err(refusal::in_circles(MOST_HOPS)), None);
            return Next::Send;
        }
        piece.refused = Some(
            Error::new(ErrorKind::Unavailable, "the key's slot moves to another node")
                .with_outcome(Outcome::Rejected)
                .with_code(if asking { "ASK" } else { "MOVED" }),
        );
        piece.route = if asking { Route::Asking(to) } else { Route::To(to) };
        // The first is what a slot that moved costs. Nodes that send on to each other have not heard of it yet.
        if piece.hops > 2 { Next::Pause } else { Next::Send }
    }

    /// No connection is left for the node that a piece is to go to.
    pub(super) fn has_no_room(&mut self, at: usize, why: Error) -> Next {
        let piece = &mut self.pieces[at];
        piece.hops += 1;
        if piece.hops > MOST_HOPS {
            piece.end(Err(why), None);
            return Next::Send;
        }
        self.again(at, why);
        Next::Learn
    }

    /// The slot that a piece is in, if it is in one.
    pub(super) fn slot(&self, at: usize) -> Option<u16> {
        match self.pieces[at].place {
            Place::Slot(slot) => Some(slot),
            _ => None,
        }
    }

    /// Some of a piece's keys are elsewhere already.
    pub(super) fn scattered(&mut self, at: usize) -> Next {
        let piece = &mut self.pieces[at];
        piece.route = Route::Owner;
        piece.refused = Some(failure::by_code("TRYAGAIN", ""));
        if piece.form == Form::Atomic {
            return Next::Pause;
        }
        match piece.part.op() {
            Op::GetMany { keys } | Op::Fetch { keys } | Op::Delete { keys } if keys.len() > 1 => {
                piece.split = true;
                Next::Send
            }
            Op::Delete { .. } | Op::Overwrite { .. } if piece.form == Form::Plain => {
                piece.form = Form::LeaseFirst;
                Next::Send
            }
            _ => Next::Pause,
        }
    }

    /// A piece is asked again, of whoever owns it then.
    pub(super) fn again(&mut self, at: usize, why: Error) {
        let piece = &mut self.pieces[at];
        piece.route = Route::Owner;
        piece.refused = Some(why);
    }

    /// The same for a group.
    pub(super) fn all_again(&mut self, group: &Group, why: &Error) {
        group.pieces.iter().for_each(|at| self.again(*at, why.clone()));
    }

    /// A piece is over.
    pub(super) fn fail(&mut self, at: usize, why: Error) {
        self.pieces[at].end(Err(why), None);
    }

    /// A group got no answer.
    pub(super) fn lose(&mut self, group: &Group, why: &Error) {
        self.touched |= why.outcome() == Outcome::Unknown;
        for at in &group.pieces {
            self.pieces[*at].done =
                Some(Done { result: Err(why.clone()), vouch: None, silent: true });
        }
    }

    /// After a round: what waits for copies of writes that are still on their way waits again, and what is split is.
    pub(super) fn settle(&mut self) {
        for at in 0..self.pieces.len() {
            let Place::Behind(slot) = self.pieces[at].place else { continue };
            let earlier = self.pieces[..at].iter().rev();
            let mut pending =
                earlier.filter(|piece| piece.place == Place::Slot(slot) && piece.done.is_none());
            if let Some(piece) = pending.next() {
                let route = match &piece.route {
                    Route::To(node) | Route::Asking(node) => Route::To(Arc::clone(node)),
                    Route::Owner | Route::Replica(_) => Route::Owner,
                };
                let waits = &mut self.pieces[at];
                waits.done = None;
                waits.route = route;
            }
        }
        if self.pieces.iter().any(|piece| piece.split) {
            let pieces = std::mem::take(&mut self.pieces);
            self.pieces = pieces.into_iter().flat_map(Piece::split_up).collect();
        }
    }

    /// The time is up for what is still on its way.
    pub(super) fn give_up(&mut self) {
        for piece in self.pieces.iter_mut().filter(|piece| piece.done.is_none()) {
            let why = piece.refused.take().unwrap_or_else(|| {
                Error::new(ErrorKind::Unavailable, "the cluster did not answer in time")
                    .with_outcome(Outcome::NotSent)
            });
            let silent = why.outcome() == Outcome::NotSent;
            piece.done = Some(Done { result: Err(why), vouch: None, silent });
        }
    }

    /// One result for each operation.
    pub(super) fn finish(self) -> Result<Replies> {
        let done = |piece: &Piece| piece.done.as_ref().is_some_and(|done| done.silent);
        // The layers above send again what may be applied twice, if they hear of it as a whole.
        let again = self.batch.is_repeatable() || self.pieces.iter().all(done);
        if again
            && let Some(Done { result: Err(error), .. }) =
                self.pieces.iter().filter_map(|piece| piece.done.as_ref()).find(|done| done.silent)
        {
            // Of the others something may have been applied.
            let is_partial = self.touched && !self.batch.is_read();
            let error = error.clone();
            return Err(if is_partial { error.with_outcome(Outcome::Unknown) } else { error });
        }
        if let Some(whole) = self.whole {
            let vouch = self.pieces.first().and_then(|piece| piece.done.as_ref()?.vouch);
            return match (whole, vouch) {
                (Ok(replies), Some(vouch)) => Ok(replies.vouched(vouch)),
                (whole, _) => whole,
            };
        }
        if self.batch.is_atomic()
            && let Some(Done { result: Err(error), .. }) =
                self.pieces.first().and_then(|piece| piece.done.as_ref())
        {
            return Err(error.clone());
        }
        let vouch = one_vouch(&self.pieces);
        let mut results: Vec<Result<Reply>> = Vec::with_capacity(self.batch.ops().len());
        let mut pieces = self.pieces.into_iter().peekable();
        for (at, op) in self.batch.ops().iter().enumerate() {
            let mut parts = Vec::new();
            while let Some(piece) = pieces.next_if(|piece| piece.at == at) {
                parts.push(piece);
            }
            results.push(together(op, parts));
        }
        let replies = match results.len() {
            1 => Replies::one(results.remove(0)),
            _ => Replies::many(results),
        };
        Ok(match vouch {
            Some(vouch) => replies.vouched(vouch),
            None => replies,
        })
    }
}

/// Whether a batch may be answered by replicas, where those are read from.
pub(super) fn may_go_to_replicas(batch: &Batch) -> bool {
    *batch.lane() == Lane::Data && !batch.is_atomic() && batch.ops().iter().all(may_be_old)
}

/// Whether the answer may be one of a moment ago: plain reads. Those of the read path are to be kept or to lead to a load, a
/// scan goes on where it stopped.
fn may_be_old(op: &Op) -> bool {
    matches!(
        op,
        Op::Get { .. }
            | Op::GetMany { .. }
            | Op::Exists { .. }
            | Op::Ttl { .. }
            | Op::HashGet { .. }
            | Op::HashGetAll { .. }
            | Op::ListRange { .. }
    )
}

impl Group {
    fn new(node: Arc<Node>, piece: usize) -> Self {
        let request = Packed::Many(Pipeline::new());
        Self { node, request, slots: Vec::new(), pieces: vec![piece] }
    }
}
