//! The one place where tasks and threads begin: each has a name, is watched, and is joined.
//!
//! Invariants: a task that fails cancels the set's token, so the program stops in order and can say
//! why; a task that panics ends the process (`crate::panics`), or, without the hook, counts as
//! failed; [`TaskSet::join`] never waits longer than its grace.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What a task may return: nothing, or a result whose error stops the program.
pub trait TaskOutcome: Send + 'static {
    /// The error as text, if it is one.
    fn failure(self) -> Option<String>;
}

impl TaskOutcome for () {
    fn failure(self) -> Option<String> {
        None
    }
}

impl<E: Display + Send + 'static> TaskOutcome for Result<(), E> {
    fn failure(self) -> Option<String> {
        // `{:#}`: anyhow prints the chain of causes, everything else the same as `{}`.
        self.err().map(|error| format!("{error:#}"))
    }
}

/// Why the set was stopped: its first failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{task}: {error}")]
pub struct TaskFailure {
    /// The task that failed.
    pub task: &'static str,
    /// What it returned.
    pub error: String,
}

/// Tasks that did not end within the grace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("still running {} ms after the stop: {}", grace.as_millis(), names.join(", "))]
pub struct StuckTasks {
    /// Their names, one for each task, in order of their start.
    pub names: Vec<&'static str>,
    /// How long was waited.
    pub grace: Duration,
}

/// A program's tasks. Clones are the same set.
#[derive(Debug, Clone)]
pub struct TaskSet {
    token: CancellationToken,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Woken whenever a task ends.
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// By number of start, so that names are listed in that order and may repeat.
    running: BTreeMap<u64, &'static str>,
    started: u64,
    cause: Option<TaskFailure>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under this lock is a single step, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TaskSet {
    /// An empty set that cancels `token` when one of its tasks fails.
    #[must_use]
    pub fn new(token: CancellationToken) -> Self {
        Self {
            token,
            shared: Arc::default(),
        }
    }

    /// The token that tells tasks to stop.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Starts an async task. An `Err` from it stops the program.
    ///
    /// Must be called inside a tokio runtime. A task that never returns is written as a function
    /// with the result `()`, since the type `!` has no outcome.
    #[expect(clippy::disallowed_methods, reason = "the one place where tasks begin")]
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output: TaskOutcome> + Send + 'static,
    {
        let mut entry = self.enter(name);
        tokio::spawn(async move {
            let outcome = task.await;
            entry.finish(outcome.failure());
        });
    }

    /// Starts a thread for work that blocks: a store, a decoder. An `Err` from it stops the program,
    /// and so does a thread that cannot be started. The thread sees the stop only as its channels
    /// closing or by looking at the token.
    pub fn spawn_blocking_thread<F, O>(&self, name: &'static str, work: F)
    where
        F: FnOnce() -> O + Send + 'static,
        O: TaskOutcome,
    {
        let mut entry = self.enter(name);
        let started = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let outcome = work();
                entry.finish(outcome.failure());
            });
        if let Err(error) = started {
            self.fail(name, format!("cannot start its thread: {error}"));
        }
    }

    /// Waits until every task has ended, for at most `grace`.
    ///
    /// Does not ask anybody to stop: wait for the token first, then call this. The grace runs from
    /// the call. Cancel safe.
    ///
    /// # Errors
    /// The tasks that still run. They keep running: the caller is expected to exit.
    pub async fn join(&self, grace: Duration) -> Result<(), StuckTasks> {
        if tokio::time::timeout(grace, self.ended()).await.is_ok() {
            return Ok(());
        }
        let names: Vec<_> = self.shared.state().running.values().copied().collect();
        if names.is_empty() {
            Ok(())
        } else {
            Err(StuckTasks { names, grace })
        }
    }

    /// The first failure, if any: what `main` turns into its exit code.
    #[must_use]
    pub fn cause(&self) -> Option<TaskFailure> {
        self.shared.state().cause.clone()
    }

    async fn ended(&self) {
        loop {
            let ended = self.shared.ended.notified();
            tokio::pin!(ended);
            // Registered before the look, so that an end between the two is not missed.
            ended.as_mut().enable();
            if self.shared.state().running.is_empty() {
                return;
            }
            ended.await;
        }
    }

    fn enter(&self, name: &'static str) -> Entry {
        let mut state = self.shared.state();
        let number = state.started;
        state.started += 1;
        state.running.insert(number, name);
        Entry {
            set: self.clone(),
            number,
            name,
            finished: false,
        }
    }

    fn fail(&self, task: &'static str, error: String) {
        tracing::error!(task, error, "task failed; the program stops");
        self.shared
            .state()
            .cause
            .get_or_insert(TaskFailure { task, error });
        self.token.cancel();
    }
}

/// A running task's place in the set, given up when it ends in whatever way.
struct Entry {
    set: TaskSet,
    number: u64,
    name: &'static str,
    finished: bool,
}

impl Entry {
    fn finish(&mut self, failure: Option<String>) {
        self.finished = true;
        if let Some(error) = failure {
            self.set.fail(self.name, error);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if !self.finished && std::thread::panicking() {
            self.set.fail(self.name, "panicked".to_owned());
        }
        self.set.shared.state().running.remove(&self.number);
        self.set.shared.ended.notify_waiters();
    }
}

/// Starts a task that lives as long as the process and is never joined: the watches for signals
/// alone.
#[expect(clippy::disallowed_methods, reason = "the one place where tasks begin")]
pub(crate) fn spawn_for_process<F>(task: F)
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(task);
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn an_empty_set_joins_at_once() {
        let set = TaskSet::new(CancellationToken::new());
        assert_eq!(set.join(Duration::ZERO).await, Ok(()));
    }

    #[tokio::test]
    async fn a_failing_task_cancels_the_token_and_is_the_cause() {
        let token = CancellationToken::new();
        let set = TaskSet::new(token.clone());
        let stop = token.clone();
        set.spawn("waits", async move { stop.cancelled().await });
        set.spawn("writer", async { Err::<(), _>("disk full") });
        token.cancelled().await;
        assert_eq!(set.join(GRACE).await, Ok(()));
        assert_eq!(set.cause().unwrap().to_string(), "writer: disk full");
    }

    #[tokio::test]
    async fn only_the_first_failure_is_the_cause() {
        let set = TaskSet::new(CancellationToken::new());
        set.spawn("first", async { Err::<(), _>("one") });
        set.join(GRACE).await.unwrap();
        set.spawn("second", async { Err::<(), _>("two") });
        set.join(GRACE).await.unwrap();
        assert_eq!(set.cause().unwrap().task, "first");
    }

    #[tokio::test]
    async fn tasks_that_do_not_stop_are_named() {
        let set = TaskSet::new(CancellationToken::new());
        let (release, held) = tokio::sync::oneshot::channel::<()>();
        set.spawn("stubborn", async move {
            held.await.ok();
        });
        set.spawn("quick", async {});
        while set.shared.state().running.len() > 1 {
            tokio::task::yield_now().await;
        }
        let stuck = set.join(Duration::ZERO).await.unwrap_err();
        assert_eq!(
            stuck.to_string(),
            "still running 0 ms after the stop: stubborn"
        );
        release.send(()).unwrap();
        assert_eq!(set.join(GRACE).await, Ok(()));
    }

    #[tokio::test]
    async fn a_thread_is_named_joined_and_its_failure_stops_the_set() {
        let token = CancellationToken::new();
        let set = TaskSet::new(token.clone());
        set.spawn_blocking_thread("store", || {
            let name = std::thread::current().name().map(str::to_owned);
            Err::<(), _>(format!("{name:?} cannot sync"))
        });
        token.cancelled().await;
        set.join(GRACE).await.unwrap();
        assert_eq!(set.cause().unwrap().error, "Some(\"store\") cannot sync");
    }

    #[tokio::test]
    async fn without_the_hook_a_panic_still_stops_the_set() {
        let token = CancellationToken::new();
        let set = TaskSet::new(token.clone());
        let breaks: fn() = || panic!("on purpose");
        set.spawn("fragile", async move { breaks() });
        token.cancelled().await;
        set.join(GRACE).await.unwrap();
        assert_eq!(set.cause().unwrap().to_string(), "fragile: panicked");
    }

    #[tokio::test]
    async fn a_task_may_start_others() {
        let set = TaskSet::new(CancellationToken::new());
        let inner = set.clone();
        set.spawn("outer", async move {
            inner.spawn("inner", tokio::task::yield_now());
        });
        assert_eq!(set.join(GRACE).await, Ok(()));
        assert_eq!(set.cause(), None);
    }
}
