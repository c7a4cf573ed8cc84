//! Flights: work in progress on a key in this process, shared by all who want its result.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::Result;
use crate::key::Key;

/// For how long others may join a flight while nobody would tell it of a change: as long as being told takes at most
/// while all is well.
const UNTOLD: Duration = Duration::from_millis(100);

/// What a flight is for. Flights of different kinds do not share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Reading what is stored.
    Lookup,
    /// Reading, and loading if nothing is stored.
    Load,
    /// Loading again while the old value is still served. There is one at a time, also after a change of the key.
    Refresh,
}

/// A flight's number; no two flights of a process share one.
pub(crate) type FlightId = usize;

/// What a flight came to.
#[derive(Clone)]
pub(crate) struct Landed {
    // A value of the type that it was boarded for, or an error.
    result: Result<Arc<dyn Any + Send + Sync>>,
    // If it may be older than a change of the key: when what brought it began. It is for who boarded before.
    before: Option<Instant>,
}

/// The flights of a client.
#[derive(Default)]
pub(crate) struct Flights {
    table: Mutex<Table>,
    // How many are open: writers look here first, and most of the time there is nothing to close.
    open: AtomicUsize,
}

#[derive(Default)]
struct Table {
    // By key, so that a change of the key finds all of them. A key seldom has more than one.
    open: HashMap<Bytes, Vec<Open>>,
    // Which flights the work of a flight waits for.
    waits: HashMap<FlightId, Vec<FlightId>>,
}

struct Open {
    id: FlightId,
    kind: Kind,
    of: TypeId,
    result: watch::Receiver<Option<Landed>>,
    // Since when it does what its result rests on, and nobody tells of changes. Nothing if it is told, or waits and will
    // ask again.
    untold: Option<Instant>,
    // Whether the key was changed since it began. Only a refresh stays in the table then.
    outdated: bool,
}

impl Open {
    /// Whether its result is new enough for who comes now.
    fn serves(&self) -> bool {
        !self.outdated && self.untold.is_none_or(|since| since.elapsed() < UNTOLD)
    }

    /// Closes it to who comes later, and answers whether it stays in the table.
    fn close(&mut self) -> bool {
        self.outdated = true;
        self.kind == Kind::Refresh
    }
}

/// A seat on a flight.
pub(crate) enum Seat<A> {
    /// This caller does the work.
    Lead(Leader<A>),
    /// Somebody else does it.
    Follow(Follower<A>),
    /// Somebody else does it, and that work waits for this caller's.
    Cycle,
}

/// Who does the work of a flight. One that is dropped without landing it hands it over: a follower boards
/// anew.
pub(crate) struct Leader<A> {
    flights: Arc<Flights>,
    key: Bytes,
    id: FlightId,
    result: watch::Sender<Option<Landed>>,
    // Whether it took its flight out of the table.
    left: bool,
    of: std::marker::PhantomData<fn() -> A>,
}

/// Who waits for a flight.
pub(crate) struct Follower<A> {
    flights: Arc<Flights>,
    // The flights whose work waits here, and the one that it waits for.
    waiting: Vec<FlightId>,
    id: FlightId,
    boarded: Instant,
    result: watch::Receiver<Option<Landed>>,
    of: std::marker::PhantomData<fn() -> A>,
}

impl Flights {
    /// Boards a flight, or opens one, which is untold. `within` are the flights as whose work this is done, and `inner`
    /// those of them whose loader asks: one loader can do the work of several.
    pub(crate) fn board<A: Clone + Send + Sync + 'static>(
        self: &Arc<Self>,
        key: &Key,
        kind: Kind,
        within: &[FlightId],
        inner: &[FlightId],
    ) -> Seat<A> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let of = TypeId::of::<A>();
        let mut table = self.table();
        let there = table.open.entry(key.bytes().clone()).or_default();
        let mut fitting = there.iter().filter(|open| open.kind == kind && open.of == of);
        let found = fitting.find_map(|open| {
            if open.serves() {
                return Some((open.id, open.result.clone()));
            }
            // What a refresh brings may be older than what this caller has already: then it is not for this one.
            (kind == Kind::Refresh).then(|| (open.id, watch::channel(None).1))
        });
        if let Some((id, result)) = found {
            if within.iter().any(|mine| table.reaches(id, *mine)) {
                return Seat::Cycle;
            }
            for mine in inner {
                table.waits.entry(*mine).or_default().push(id);
            }
            return Seat::Follow(Follower {
                flights: Arc::clone(self),
                waiting: inner.to_vec(),
                id,
                boarded: Instant::now(),
                result,
                of: std::marker::PhantomData,
            });
        }
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let (sender, result) = watch::channel(None);
        let untold = Some(Instant::now());
        there.push(Open { id, kind, of, result, untold, outdated: false });
        self.open.fetch_add(1, Ordering::SeqCst);
        Seat::Lead(Leader {
            flights: Arc::clone(self),
            key: key.bytes().clone(),
            id,
            result: sender,
            left: false,
            of: std::marker::PhantomData,
        })
    }

    /// Whether any flight is open.
    pub(crate) fn any(&self) -> bool {
        self.open.load(Ordering::SeqCst) > 0
    }

    /// A flight is told of changes to what its result will rest on: they close it, and until then anybody may join.
    pub(crate) fn told(&self, key: &Key, id: FlightId) {
        self.mark(key, id, None);
    }

    /// A flight waits, and will ask again: its result rests on nothing yet, and anybody may join.
    pub(crate) fn waits(&self, key: &Key, id: FlightId) {
        self.mark(key, id, None);
    }

    /// A flight begins what its result will rest on, and nobody tells of changes meanwhile: who comes much later opens
    /// another one.
    pub(crate) fn untold(&self, key: &Key, id: FlightId) {
        self.mark(key, id, Some(Instant::now()));
    }

    fn mark(&self, key: &Key, id: FlightId, untold: Option<Instant>) {
        let mut table = self.table();
        let open = table.open.get_mut(key.as_bytes());
        if let Some(open) = open.and_then(|open| open.iter_mut().find(|open| open.id == id)) {
            // What a refresh falls back on is what its caller had at first.
            open.untold = match (open.kind, open.untold) {
                (Kind::Refresh, Some(since)) if untold.is_some() => Some(since),
                _ => untold,
            };
        }
    }

    /// Closes a key's flights to who comes later: what they bring may be older than what the key holds
    /// now.
    pub(crate) fn close(&self, key: &[u8]) {
        if !self.any() {
            return;
        }
        let mut table = self.table();
        let Some(open) = table.open.get_mut(key) else { return };
        let before = open.len();
        open.retain_mut(Open::close);
        self.open.fetch_sub(before - open.len(), Ordering::SeqCst);
        if open.is_empty() {
            table.open.remove(key);
        }
    }

    /// Closes all flights to who comes later.
    pub(crate) fn close_all(&self) {
        let mut table = self.table();
        let mut left = 0;
        table.open.retain(|_, open| {
            open.retain_mut(Open::close);
            left += open.len();
            !open.is_empty()
        });
        self.open.store(left, Ordering::SeqCst);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing that can panic runs under this lock.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Whether the work of flight `from` is that of `to`, or waits for it.
    fn reaches(&self, from: FlightId, to: FlightId) -> bool {
        let mut seen = vec![from];
        let mut at = 0;
        while let Some(id) = seen.get(at).copied() {
            if id == to {
                return true;
            }
            for next in self.waits.get(&id).into_iter().flatten() {
                if !seen.contains(next) {
                    seen.push(*next);
                }
            }
            at += 1;
        }
        false
    }
}

impl<A: Clone + Send + Sync + 'static> Leader<A> {
    /// The flight's number, for what is boarded as part of its work.
    pub(crate) fn id(&self) -> FlightId {
        self.id
    }

    /// Gives the result to all who wait, and closes the flight. Who boarded gets it; the leader goes on.
    pub(crate) fn land(self, result: &Result<A>) {
        self.land_before(result, None);
    }

    /// The same of a result that may be older than a change of the key, if what brought it began at a time: who boarded
    /// later boards anew.
    pub(crate) fn land_before(mut self, result: &Result<A>, before: Option<Instant>) {
        self.leave();
        // Closed, nobody can board any more: most of the time nobody did.
        if self.result.receiver_count() == 0 {
            return;
        }
        let result: Result<Arc<dyn Any + Send + Sync>> = match result {
            Ok(answer) => Ok(Arc::new(answer.clone())),
            Err(error) => Err(error.clone()),
        };
        self.result.send_replace(Some(Landed { result, before }));
    }

    /// A seat for who handed the work to a task of its own.
    pub(crate) fn follow(&self) -> watch::Receiver<Option<Landed>> {
        self.result.subscribe()
    }
}

impl<A> Leader<A> {
    fn leave(&mut self) {
        if std::mem::replace(&mut self.left, true) {
            return;
        }
        let mut table = self.flights.table();
        if let Some(open) = table.open.get_mut(&self.key) {
            let before = open.len();
            open.retain(|open| open.id != self.id);
            self.flights.open.fetch_sub(before - open.len(), Ordering::SeqCst);
            if open.is_empty() {
                table.open.remove(&self.key);
            }
        }
    }
}

impl<A> Drop for Leader<A> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl<A: Clone + Send + Sync + 'static> Follower<A> {
    /// What the flight came to. Nothing if its leader went away, or if this caller came too late for it.
    pub(crate) async fn landed(mut self) -> Option<Result<A>> {
        let landed = landing(&mut self.result).await?;
        landed.before.is_none_or(|before| self.boarded < before).then_some(landed)?.into_result()
    }
}

/// What a flight comes to, for who leads it. Nothing if the work was dropped.
pub(crate) async fn arrived<A: Clone + Send + Sync + 'static>(
    result: &mut watch::Receiver<Option<Landed>>,
) -> Option<Result<A>> {
    landing(result).await?.into_result()
}

async fn landing(result: &mut watch::Receiver<Option<Landed>>) -> Option<Landed> {
    result.wait_for(Option::is_some).await.ok()?.clone()
}

impl Landed {
    fn into_result<A: Clone + 'static>(self) -> Option<Result<A>> {
        // The type stands in what was boarded.
        Some(match self.result {
            Ok(answer) => Ok(answer.downcast_ref::<A>()?.clone()),
            Err(error) => Err(error),
        })
    }
}

impl<A> Drop for Follower<A> {
    fn drop(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let mut table = self.flights.table();
        for mine in &self.waiting {
            let Some(waits) = table.waits.get_mut(mine) else { continue };
            if let Some(at) = waits.iter().position(|other| *other == self.id) {
                waits.swap_remove(at);
            }
            if waits.is_empty() {
                table.waits.remove(mine);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new(name).unwrap()
    }

    fn lead(flights: &Arc<Flights>, name: &str, within: &[FlightId]) -> Leader<u32> {
        match flights.board(&key(name), Kind::Load, within, within) {
            Seat::Lead(leader) => leader,
            _ => panic!("somebody leads {name} already"),
        }
    }

    fn follow(flights: &Arc<Flights>, name: &str, within: &[FlightId]) -> Follower<u32> {
        match flights.board(&key(name), Kind::Load, within, within) {
            Seat::Follow(follower) => follower,
            _ => panic!("nobody leads {name}, or there is a cycle"),
        }
    }

    #[tokio::test]
    async fn all_who_boarded_get_what_the_leader_brings() {
        let flights = Arc::new(Flights::default());
        let leader = lead(&flights, "a", &[]);
        let followers = [follow(&flights, "a", &[]), follow(&flights, "a", &[])];
        leader.land(&Ok(7));
        for follower in followers {
            assert_eq!(follower.landed().await.unwrap().unwrap(), 7);
        }
        lead(&flights, "a", &[]);
    }

    #[tokio::test]
    async fn a_leader_that_goes_away_hands_over() {
        let flights = Arc::new(Flights::default());
        let leader = lead(&flights, "a", &[]);
        let follower = follow(&flights, "a", &[]);
        drop(leader);
        assert!(follower.landed().await.is_none());
        lead(&flights, "a", &[]);
    }

    #[tokio::test]
    async fn a_closed_flight_lands_for_who_is_on_it_and_nobody_joins_it() {
        let flights = Arc::new(Flights::default());
        let old = lead(&flights, "a", &[]);
        let early = follow(&flights, "a", &[]);
        flights.close(b"a");
        let new = lead(&flights, "a", &[]);
        let late = follow(&flights, "a", &[]);
        old.land(&Ok(1));
        assert_eq!(early.landed().await.unwrap().unwrap(), 1);
        new.land(&Ok(2));
        assert_eq!(late.landed().await.unwrap().unwrap(), 2);
        assert_eq!(flights.open.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn a_refresh_that_began_before_a_change_stays_the_only_one_and_nobody_who_comes_later_gets_its_result()
     {
        let flights = Arc::new(Flights::default());
        let board = || flights.board::<u32>(&key("a"), Kind::Refresh, &[], &[]);
        for close in [|flights: &Flights| flights.close(b"a"), Flights::close_all] {
            let Seat::Lead(old) = board() else { panic!("somebody leads") };
            let Seat::Follow(early) = board() else { panic!("nobody leads") };
            close(&flights);
            let Seat::Follow(late) = board() else { panic!("nobody leads") };
            assert!(late.landed().await.is_none());
            old.land(&Ok(1));
            assert_eq!(early.landed().await.unwrap().unwrap(), 1);
            assert!(matches!(board(), Seat::Lead(_)));
            assert!(!flights.any());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_be_older_than_a_change_is_for_who_came_before_it_began() {
        let flights = Arc::new(Flights::default());
        let leader = lead(&flights, "a", &[]);
        flights.told(&key("a"), leader.id());
        let mut own = leader.follow();
        let early = follow(&flights, "a", &[]);
        tokio::time::advance(Duration::from_millis(1)).await;
        let began = Instant::now();
        let late = follow(&flights, "a", &[]);
        leader.land_before(&Ok(1), Some(began));
        assert_eq!(arrived::<u32>(&mut own).await.unwrap().unwrap(), 1);
        assert_eq!(early.landed().await.unwrap().unwrap(), 1);
        assert!(late.landed().await.is_none());
        lead(&flights, "a", &[]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refresh_that_nobody_tells_of_changes_stays_the_only_one_and_is_joined_for_a_moment_only()
     {
        let flights = Arc::new(Flights::default());
        let board = || flights.board::<u32>(&key("a"), Kind::Refresh, &[], &[]);
        let Seat::Lead(leader) = board() else { panic!("somebody leads") };
        tokio::time::advance(UNTOLD).await;
        let Seat::Follow(late) = board() else { panic!("nobody leads") };
        assert!(late.landed().await.is_none());
        flights.told(&key("a"), leader.id());
        let Seat::Follow(told) = board() else { panic!("nobody leads") };
        leader.land(&Ok(1));
        assert_eq!(told.landed().await.unwrap().unwrap(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_tells_of_changes_is_joined_for_a_moment_only() {
        let flights = Arc::new(Flights::default());
        let board = || flights.board::<u32>(&key("a"), Kind::Load, &[], &[]);
        let Seat::Lead(first) = board() else { panic!("somebody leads") };
        tokio::time::advance(UNTOLD / 2).await;
        assert!(matches!(board(), Seat::Follow(_)));
        // What it read is of no account any more: its result will rest on what begins now.
        flights.untold(&key("a"), first.id());
        tokio::time::advance(UNTOLD / 2).await;
        let Seat::Follow(early) = board() else { panic!("nobody leads") };
        tokio::time::advance(UNTOLD / 2).await;
        let Seat::Lead(second) = board() else { panic!("the first is too old") };
        flights.told(&key("a"), first.id());
        tokio::time::advance(UNTOLD * 2).await;
        let Seat::Follow(late) = board() else { panic!("the first is told") };
        second.land(&Ok(2));
        first.land(&Ok(1));
        assert_eq!(early.landed().await.unwrap().unwrap(), 1);
        assert_eq!(late.landed().await.unwrap().unwrap(), 1);
        assert!(!flights.any());
    }

    #[test]
    fn work_that_would_wait_for_itself_is_a_cycle_over_any_number_of_flights() {
        let flights = Arc::new(Flights::default());
        let [a, b, c] = ["a", "b", "c"].map(|name| lead(&flights, name, &[]));
        let _a_waits_for_b = follow(&flights, "b", &[a.id()]);
        let b_waits_for_c = follow(&flights, "c", &[b.id()]);
        assert!(matches!(
            flights.board::<u32>(&key("a"), Kind::Load, &[c.id()], &[c.id()]),
            Seat::Cycle
        ));
        assert!(matches!(
            flights.board::<u32>(&key("a"), Kind::Load, &[a.id()], &[a.id()]),
            Seat::Cycle
        ));
        drop(b_waits_for_c);
        follow(&flights, "a", &[c.id()]);
    }

    #[test]
    fn readers_of_different_types_and_kinds_do_not_share() {
        let flights = Arc::new(Flights::default());
        let _one = lead(&flights, "a", &[]);
        assert!(matches!(flights.board::<u64>(&key("a"), Kind::Load, &[], &[]), Seat::Lead(_)));
        assert!(matches!(flights.board::<u32>(&key("a"), Kind::Lookup, &[], &[]), Seat::Lead(_)));
    }
}
