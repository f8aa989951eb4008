//! A panic that nobody contained ends the process.
//!
//! A half-dead process is worse than a dead one: a service manager restarts the dead one, and all
//! that it held can be sent again. The release profile still unwinds, because two places contain a
//! panic on purpose: opening a damaged store, and decoding one frame.
//!
//! Invariant: after [`install`], no thread outside [`contain`] outlives a panic. Containment covers
//! the calling thread only: a thread that the contained work starts is not covered.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io::Write;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook};

thread_local! {
    /// How many [`contain`] calls this thread is inside of.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// Where the panic now being contained on this thread happened.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A panic that was contained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("panic contained: {message}")]
pub struct Contained {
    /// What the panic said, and where it happened when the hook is installed.
    pub message: String,
}

/// Sets the process's panic hook: name the thread, the place and the message, then abort.
///
/// Call first in `main`. Calling it again changes nothing.
pub fn install() {
    set_hook(Box::new(on_panic));
}

fn on_panic(info: &PanicHookInfo<'_>) {
    let place = info
        .location()
        .map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    if DEPTH.with(Cell::get) > 0 {
        PLACE.with(|cell| *cell.borrow_mut() = Some(place));
        return;
    }
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("without a name");
    let message = text_of(info.payload());
    // Straight to standard error: the logger may be what panicked. A broken pipe changes nothing.
    let line =
        format!("fatal: thread {thread} panicked at {place}: {message}; the process ends now\n");
    std::io::stderr().write_all(line.as_bytes()).ok();
    std::process::abort();
}

/// Runs `work` and turns a panic in it into an error.
///
/// What `work` changed may be half changed afterwards: hand it values to own, or throw away what it
/// borrowed when this fails.
///
/// # Errors
/// The panic's message.
pub fn contain<T>(work: impl FnOnce() -> T) -> Result<T, Contained> {
    DEPTH.with(|depth| depth.set(depth.get() + 1));
    let outcome = catch_unwind(AssertUnwindSafe(work));
    DEPTH.with(|depth| depth.set(depth.get() - 1));
    outcome.map_err(|payload| {
        let message = text_of(payload.as_ref());
        let place = PLACE.with(|cell| cell.borrow_mut().take());
        Contained {
            message: place.map_or(message.clone(), |place| format!("{message} (at {place})")),
        }
    })
}

fn text_of(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a value that is not text".to_owned())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Output};

    use super::*;

    /// Runs one test of this file again in a process of its own, where it may die.
    fn rerun(test: &str) -> Output {
        let program = std::env::current_exe().unwrap();
        let mut command = Command::new(program);
        command.args(["--exact", &format!("panics::tests::{test}"), "--nocapture"]);
        command.env("VERST_TEST_VICTIM", test).output().unwrap()
    }

    fn is_victim(test: &str) -> bool {
        std::env::var("VERST_TEST_VICTIM").is_ok_and(|victim| victim == test)
    }

    fn aborted(output: &Output) -> bool {
        use std::os::unix::process::ExitStatusExt;
        const SIGABRT: i32 = 6;
        output.status.signal() == Some(SIGABRT)
    }

    #[test]
    fn a_panic_in_another_thread_ends_the_process_with_its_name_place_and_message() {
        const NAME: &str =
            "a_panic_in_another_thread_ends_the_process_with_its_name_place_and_message";
        if is_victim(NAME) {
            install();
            let thread = std::thread::Builder::new().name("router".to_owned());
            let died = thread
                .spawn(|| panic!("ring {} is gone", 7))
                .unwrap()
                .join();
            assert!(died.is_ok(), "the process outlived the panic");
            return;
        }
        let output = rerun(NAME);
        assert!(aborted(&output), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("thread router panicked at"), "{said}");
        assert!(said.contains("panics.rs:"), "{said}");
        assert!(said.contains("ring 7 is gone"), "{said}");
    }

    #[test]
    fn a_panic_in_an_async_task_ends_the_process() {
        const NAME: &str = "a_panic_in_an_async_task_ends_the_process";
        if is_victim(NAME) {
            install();
            let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
            let task = runtime.spawn(async { panic!("in a task") });
            assert!(
                runtime.block_on(task).is_ok(),
                "the process outlived the panic"
            );
            return;
        }
        let output = rerun(NAME);
        assert!(aborted(&output), "{output:?}");
    }

    #[test]
    fn a_contained_panic_is_an_error_with_its_message_and_place() {
        const NAME: &str = "a_contained_panic_is_an_error_with_its_message_and_place";
        if is_victim(NAME) {
            install();
            let contained = contain(|| panic!("chunk {} is torn", 3))
                .map(|()| 0)
                .unwrap_err();
            assert!(
                contained.message.starts_with("chunk 3 is torn (at "),
                "{contained}"
            );
            assert!(contained.message.contains("panics.rs:"), "{contained}");
            // An inner containment leaves the outer one in force.
            let outer = contain(|| {
                assert!(contain(|| panic!("inner")).map(|()| 0).is_err());
                panic!("outer")
            });
            assert!(outer.map(|()| 0).unwrap_err().message.starts_with("outer"));
            return;
        }
        let output = rerun(NAME);
        assert!(output.status.success(), "{output:?}");
    }

    #[test]
    fn containment_ends_with_its_call() {
        const NAME: &str = "containment_ends_with_its_call";
        if is_victim(NAME) {
            install();
            assert!(contain(|| panic!("first")).map(|()| 0).is_err());
            let again = std::panic::catch_unwind(|| panic!("second"));
            assert!(again.is_ok(), "the process outlived the panic");
            return;
        }
        let output = rerun(NAME);
        assert!(aborted(&output), "{output:?}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("second"),
            "{output:?}"
        );
    }

    #[test]
    fn work_without_a_panic_gives_its_value() {
        assert_eq!(contain(|| 6 * 7), Ok(42));
    }
}
