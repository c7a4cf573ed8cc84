//! Alarms: they wake calls whose deadlines come near. Nearly every call is answered long before, so the calls of a thread
//! share one timer: one of the runtime's own for each call would take a lock that all its threads share, twice.

use std::cell::RefCell;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use futures_util::future::select;
use tokio::runtime::{Handle, Id};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::runtime;

thread_local! {
    // Of each runtime that this thread was in, as long as a task there looks.
    static HERE: RefCell<Vec<(Id, Arc<Watch>)>> = const { RefCell::new(Vec::new()) };
}

/// Wakes a task at about a moment, unless it is dropped before. It is a task that does so: in a busy runtime it takes its
/// turn, and what it wakes then takes its own.
pub(super) struct Alarm {
    watch: Arc<Watch>,
    at: usize,
}

impl Alarm {
    /// An alarm that wakes the task of `cx`. To be called within a runtime.
    pub(super) fn set(moment: Instant, cx: &Context<'_>) -> Self {
        let watch = Watch::here();
        let mut state = watch.state();
        let at = state.add(Place::Set(moment, cx.waker().clone()));
        let look = state.expect(moment);
        drop(state);
        watch.tell(look);
        Self { watch, at }
    }

    /// The task of `cx` waits now, which may be another one. Answers whether it is still to be woken.
    pub(super) fn keep(&self, cx: &Context<'_>) -> bool {
        let mut state = self.watch.state();
        let Place::Set(moment, waker) = &mut state.places[self.at] else { return false };
        let moment = *moment;
        let before =
            (!waker.will_wake(cx.waker())).then(|| std::mem::replace(waker, cx.waker().clone()));
        // The runtime of the task that looked may be gone.
        let look = if runtime::is_here() { state.expect(moment) } else { Look::Known };
        // What a waker drops may set and drop alarms.
        drop(state);
        drop(before);
        self.watch.tell(look);
        true
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let mut state = self.watch.state();
        let place = std::mem::replace(&mut state.places[self.at], Place::Quiet);
        state.free.push(self.at);
        drop(state);
        drop(place);
    }
}

/// The alarms that one thread set within one runtime, and what its task there knows.
#[derive(Default)]
struct Watch {
    state: Mutex<State>,
    // An alarm is sooner than the task knows.
    sooner: Notify,
}

#[derive(Default)]
struct State {
    places: Vec<Place>,
    free: Vec<usize>,
    // When the task looks again, as long as there is one.
    next: Option<Instant>,
}

enum Place {
    Set(Instant, Waker),
    // It rang, or nobody has it.
    Quiet,
}

/// Whether somebody will look in time.
enum Look {
    Known,
    Sooner,
    Nobody(Instant),
}

impl Watch {
    fn here() -> Arc<Self> {
        let id = Handle::current().id();
        let here = HERE.try_with(|here| {
            let mut here = here.borrow_mut();
            if let Some((_, watch)) = here.iter().find(|(of, _)| *of == id) {
                return Arc::clone(watch);
            }
            here.retain(|(_, watch)| watch.state().next.is_some());
            let watch = Arc::<Self>::default();
            here.push((id, Arc::clone(&watch)));
            watch
        });
        // A thread that is about to end keeps nothing.
        here.unwrap_or_default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(self: &Arc<Self>, look: Look) {
        match look {
            Look::Known => {}
            Look::Sooner => self.sooner.notify_one(),
            Look::Nobody(next) => {
                tokio::spawn(Watcher { watch: Arc::clone(self), next: Some(next) }.run());
            }
        }
    }
}

impl State {
    fn add(&mut self, place: Place) -> usize {
        match self.free.pop() {
            Some(at) => {
                self.places[at] = place;
                at
            }
            None => {
                self.places.push(place);
                self.places.len() - 1
            }
        }
    }

    fn expect(&mut self, moment: Instant) -> Look {
        match self.next {
            Some(next) if next <= moment => Look::Known,
            before => {
                self.next = Some(moment);
                if before.is_some() { Look::Sooner } else { Look::Nobody(moment) }
            }
        }
    }

    /// Takes out the wakers of the alarms that are due, and finds out when the next one is.
    fn ring(&mut self, now: Instant, due: &mut Vec<Waker>) {
        self.next = None;
        for place in &mut self.places {
            match place {
                Place::Set(moment, _) if *moment > now => {
                    self.next = Some(self.next.map_or(*moment, |next| next.min(*moment)));
                }
                Place::Set(..) => {
                    if let Place::Set(_, waker) = std::mem::replace(place, Place::Quiet) {
                        due.push(waker);
                    }
                }
                Place::Quiet => {}
            }
        }
        // What many calls at once took is not kept for ever.
        if self.free.len() == self.places.len() {
            (self.places, self.free) = Default::default();
        }
    }
}

/// The task that rings. It ends when no alarm is set, and the next alarm starts another.
struct Watcher {
    watch: Arc<Watch>,
    next: Option<Instant>,
}

impl Watcher {
    async fn run(mut self) {
        let mut due = Vec::new();
        while let Some(next) = self.next {
            select(pin!(sleep_until(next)), pin!(self.watch.sooner.notified())).await;
            {
                let mut state = self.watch.state();
                state.ring(Instant::now(), &mut due);
                self.next = state.next;
            }
            due.drain(..).for_each(Waker::wake);
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if self.next.is_none() {
            return;
        }
        // The runtime is being shut down. Whoever waits elsewhere sees to it that somebody looks.
        let mut state = self.watch.state();
        state.next = None;
        let waiting: Vec<Waker> = state.places.iter().filter_map(Place::waker).cloned().collect();
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl Place {
    fn waker(&self) -> Option<&Waker> {
        match self {
            Self::Set(_, waker) => Some(waker),
            Self::Quiet => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;
    use std::time::Duration;

    use futures_util::future::{Either, join_all};
    use tokio::runtime::{Builder, Runtime};

    use super::*;

    const D: Duration = Duration::from_secs(1);

    /// Ends at its moment.
    async fn wait(moment: Instant) {
        let mut alarm = None;
        poll_fn(|cx| match &alarm {
            Some(alarm) if !Alarm::keep(alarm, cx) => Poll::Ready(()),
            Some(_) => Poll::Pending,
            None => {
                alarm = Some(Alarm::set(moment, cx));
                Poll::Pending
            }
        })
        .await;
        assert!(Instant::now() >= moment, "too early");
    }

    fn set_here() -> usize {
        let watch = Watch::here();
        let state = watch.state();
        state.places.len() - state.free.len()
    }

    fn alone() -> Runtime {
        Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn each_rings_at_its_moment_whichever_was_set_first() {
        let begun = Instant::now();
        let waits = [5_u32, 1, 3, 1, 4].map(|times| async move {
            wait(begun + D * times).await;
            (times, begun.elapsed())
        });
        for (times, took) in join_all(waits).await {
            let late = took - D * times;
            assert!(late <= Duration::from_millis(2), "{times}: {took:?}");
        }
        assert_eq!(set_here(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_dropped_leaves_nothing_and_the_task_ends() {
        let watch = Watch::here();
        for _ in 0..3 {
            let begun = Instant::now();
            for _ in 0..100 {
                let waiting = pin!(wait(begun + D));
                assert!(matches!(
                    select(waiting, pin!(tokio::task::yield_now())).await,
                    Either::Right(_)
                ));
            }
            assert_eq!(set_here(), 0);
            assert_eq!(watch.state().places.len(), 1, "places are used again");
            assert!(watch.state().next.is_some());
            tokio::time::sleep(D * 2).await;
            assert!(watch.state().next.is_none());
            assert_eq!(watch.state().places.len(), 0);
            assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_polled_last_is_woken() {
        let moment = Instant::now() + D;
        let mut waiting = Box::pin(wait(moment));
        assert!(futures_util::future::poll_immediate(&mut waiting).await.is_none());
        tokio::spawn(waiting).await.unwrap();
        assert!(Instant::now() >= moment);
    }

    #[test]
    fn runtimes_of_one_thread_have_their_own_and_those_that_are_gone_leave_nothing() {
        let (one, other) = (alone(), alone());
        for _ in 0..3 {
            for runtime in [&one, &other] {
                runtime.block_on(async { wait(Instant::now() + D).await });
                // Longer than the block lasts: its task stays, and is there when the runtime runs again.
                let soon = async {
                    _ = select(pin!(wait(Instant::now() + D * 9)), pin!(tokio::task::yield_now()))
                        .await
                };
                runtime.block_on(soon);
            }
        }
        assert_eq!(HERE.with_borrow(Vec::len), 2);
        drop((one, other));
        alone().block_on(async { wait(Instant::now() + D).await });
        assert_eq!(HERE.with_borrow(Vec::len), 1);
    }

    #[test]
    fn one_that_waits_elsewhere_outlives_the_runtime_it_was_set_in() {
        let first = alone();
        let moment = first.block_on(async { Instant::now() }) + Duration::from_millis(20);
        let mut waiting = Box::pin(wait(moment));
        first.block_on(async {
            assert!(futures_util::future::poll_immediate(&mut waiting).await.is_none());
        });
        let second = Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
        let waiting = second.spawn(waiting);
        // Polled there, so that it is to be woken there.
        while second.metrics().num_alive_tasks() != 1 {
            std::thread::yield_now();
        }
        drop(first);
        second.block_on(async {
            tokio::time::timeout(D * 10, waiting).await.expect("it hung").unwrap();
        });
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn none_is_lost_among_many_that_are_dropped() {
        let rounds = (0..64_u64).map(|task| {
            tokio::spawn(async move {
                for round in 0..200 {
                    let millis = (task * 7 + round) % 5;
                    let waiting = pin!(wait(Instant::now() + Duration::from_millis(millis)));
                    if round % 3 == 0 {
                        waiting.await;
                    } else {
                        _ = select(waiting, pin!(tokio::task::yield_now())).await;
                    }
                }
            })
        });
        let all = tokio::time::timeout(D * 20, join_all(rounds)).await;
        all.expect("an alarm was lost").into_iter().for_each(Result::unwrap);
    }
}
