//! What went wrong, by the code that the node gives or that the client gives for it.

use std::fmt::{self, Write as _};

use crate::event::Event;

macro_rules! codes {
    ($($name:ident $text:literal $what:literal,)*) => {
        /// Why something did not come about: the protocol's codes, and those of the client itself.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Code {
            $(#[doc = $what] $name,)*
            /// One that this version of the client does not know.
            Other(Box<str>),
        }

        impl Code {
            /// The code as the protocol writes it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Other(text) => text,
                }
            }
        }

        impl From<&str> for Code {
            fn from(text: &str) -> Self {
                match text {
                    $($text => Self::$name,)*
                    _ => Self::Other(text.into()),
                }
            }
        }
    };
}

codes! {
    BadArg "badarg" "The command is not well formed, or cannot be meant.",
    BadBody "badbody" "A body cannot be written as CBOR, or is not of the type that was asked for. Of the client itself.",
    BadOp "badop" "The node knows no such command.",
    CallingSelf "calling_self" "A process calls itself.",
    Cancelled "cancelled" "The app took the command back.",
    CannotStart "cannot_start" "A program cannot be started.",
    Closed "closed" "The client is closed. Of the client itself.",
    Denied "denied" "It is not this session's, or not for it.",
    Draining "draining" "The node is about to leave.",
    Exception "exception" "The callee failed; see `class`, `reason` and `stack`.",
    Exit "exit" "The callee died; see `reason`.",
    Lost "lost" "The connection was lost. Of the client itself.",
    NoConnection "noconnection" "The node is not connected, or was lost meanwhile.",
    NoProc "noproc" "There is no such process, or it has ended.",
    NotFound "not_found" "There is no such thing.",
    Overloaded "overloaded" "A queue is full.",
    Taken "taken" "Somebody has the name.",
    Timeout "timeout" "No answer in time.",
    TooLarge "too_large" "It is longer than the node takes.",
    Undef "undef" "The callee has no such function.",
    Unreachable "unreachable" "No node was found, or none listens at the socket. Of the client itself.",
    Unsupported "unsupported" "This version of the protocol does not have it.",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What went wrong: a [`Code`] for programs, a sentence for people, and whether it may have happened all the same.
///
/// ```
/// use pillion_client::{Code, Error};
///
/// fn again(error: &Error) -> bool {
///     matches!(error.code(), Code::Timeout | Code::Overloaded) && !error.maybe_applied()
/// }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Error(Box<Details>);

/// What goes through the crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Clone, PartialEq, Eq)]
struct Details {
    code: Code,
    message: String,
    maybe_applied: bool,
    class: Option<String>,
    reason: Option<String>,
    stack: Option<String>,
    nodes: Vec<String>,
}

impl Error {
    /// An error of the app's own, that nothing came of.
    #[must_use]
    pub fn from_code(code: Code, message: &str) -> Self {
        Self::new(code, false, message)
    }

    pub(crate) fn new(code: Code, maybe_applied: bool, message: impl Into<String>) -> Self {
        let message = message.into();
        let (class, reason, stack) = (None, None, None);
        let nodes = Vec::new();
        Self(Box::new(Details { code, message, maybe_applied, class, reason, stack, nodes }))
    }

    pub(crate) fn lost(maybe_applied: bool) -> Self {
        let words = if maybe_applied {
            "the connection to the node was lost before the answer came; it may have been carried out"
        } else {
            "the connection to the node was lost, and it was not carried out; try again"
        };
        Self::new(Code::Lost, maybe_applied, words)
    }

    pub(crate) fn closed() -> Self {
        Self::new(Code::Closed, false, "the client is closed")
    }

    pub(crate) fn ended(reason: &str) -> Self {
        let mut error = Self::new(Code::NoProc, false, format!("this process has ended: {reason}"));
        error.0.reason = Some(reason.to_owned());
        error
    }

    pub(crate) fn exited(reason: &str) -> Self {
        let mut error = Self::new(Code::Exit, true, format!("it exited: {reason}"));
        error.0.reason = Some(reason.to_owned());
        error
    }

    pub(crate) fn failed(failure: &Failure) -> Self {
        let words = format!("it failed with {}: {}", failure.class, failure.reason);
        let mut error = Self::new(Code::Exception, true, words);
        error.0.class = Some(failure.class.clone());
        error.0.reason = Some(failure.reason.clone());
        error.0.stack.clone_from(&failure.stack);
        error
    }

    pub(crate) fn bad_body(words: impl fmt::Display) -> Self {
        Self::new(Code::BadBody, false, words.to_string())
    }

    /// What an `error` frame says.
    pub(crate) fn of(event: &Event) -> Self {
        let text = |key| event.text(key).map(str::to_owned);
        Self(Box::new(Details {
            code: event.text("code").unwrap_or_default().into(),
            message: text("message").unwrap_or_default(),
            maybe_applied: event.bool("maybe_applied").unwrap_or(false),
            class: text("class"),
            reason: text("reason"),
            stack: text("stack"),
            nodes: event.field("nodes").unwrap_or_default(),
        }))
    }

    /// The code, for programs.
    #[must_use]
    pub fn code(&self) -> &Code {
        &self.0.code
    }

    /// The sentence, for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Whether what was asked for may have happened all the same.
    #[must_use]
    pub fn maybe_applied(&self) -> bool {
        self.0.maybe_applied
    }

    /// The type of the callee's error, with [`Code::Exception`].
    #[must_use]
    pub fn class(&self) -> Option<&str> {
        self.0.class.as_deref()
    }

    /// What the callee's error says, or why it died.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.0.reason.as_deref()
    }

    /// Where the callee's error came from, as the callee tells it.
    #[must_use]
    pub fn stack(&self) -> Option<&str> {
        self.0.stack.as_deref()
    }

    /// The nodes that it concerns: those that are full, or missing.
    #[must_use]
    pub fn nodes(&self) -> &[String] {
        &self.0.nodes
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message(), self.code())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Error");
        shown.field("code", &self.code().as_str()).field("message", &self.message());
        shown.field("maybe_applied", &self.maybe_applied());
        for (name, value) in [("class", self.class()), ("reason", self.reason())] {
            if let Some(value) = value {
                shown.field(name, &value);
            }
        }
        shown.finish_non_exhaustive()
    }
}

impl std::error::Error for Error {}

/// How a callback or a function failed: what becomes `raise {class, reason, stack}`.
///
/// Every error becomes one with `?`: the class is its type's name, the reason its text, the stack the errors behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The type of the error; `undef` says that there is no such function and that nothing was done.
    pub class: String,
    /// What it says.
    pub reason: String,
    /// Where it came from; the last 16 KiB of it are told.
    pub stack: Option<String>,
}

impl Failure {
    /// A failure that is no error's.
    pub fn new(class: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { class: class.into(), reason: reason.into(), stack: None }
    }

    /// The exit reason of a process that fails so: `CLASS: TEXT`, of at most 1024 bytes.
    pub(crate) fn exit_reason(&self) -> String {
        let mut text = format!("{}: {}", self.class, self.reason);
        truncate(&mut text, 1024);
        text
    }

    pub(crate) fn of_panic(panic: &(dyn std::any::Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Self::new("panic", text.unwrap_or("it panicked"))
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let name = std::any::type_name::<E>();
        let name = name.split('<').next().unwrap_or(name);
        let class = name.rsplit("::").next().unwrap_or(name).to_owned();
        // Errors of Rust know no lines of code: what is behind this one is told in their place.
        let mut stack = format!("{class}: {error}\n");
        let mut source = error.source();
        while let Some(cause) = source {
            let _ = writeln!(stack, "caused by: {cause}");
            source = cause.source();
        }
        Self { class, reason: error.to_string(), stack: Some(stack) }
    }
}

/// Cuts a text at a character, so that it has at most `bytes`.
pub(crate) fn truncate(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        let end = (0..=bytes).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
}

/// The last bytes of a text.
pub(crate) fn last(text: &str, bytes: usize) -> &str {
    let start = text.len().saturating_sub(bytes);
    let start = (start..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    &text[start..]
}
