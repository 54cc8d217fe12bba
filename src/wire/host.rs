//! What a node hosts: the words for OS processes, their supervisors and their factories, as OTP has them.

use std::collections::BTreeMap;
use std::time::Duration;

/// Most children of one supervisor or factory.
pub const CHILDREN_MAX: usize = 500;
/// Most supervisors and factories of one node.
pub const SUPERVISORS_MAX: usize = 500;
/// Most arguments of a command, those of a `spawn` included.
pub const ARGS_MAX: usize = 1000;
/// Most bytes of a command, its arguments and its variables together.
pub const PROGRAM_BYTES_MAX: usize = 32 * 1024;
/// The supervisor of those that name none.
pub const DEFAULT_SUPERVISOR: &str = "default";
/// How long a process may take to end once it was asked (OTP's default for workers).
pub const SHUTDOWN: Duration = Duration::from_secs(5);
/// The longest such time.
pub const SHUTDOWN_MAX: Duration = Duration::from_secs(24 * 3600);
/// More restarts than this ...
pub const MAX_RESTARTS: u32 = 3;
/// ... within so many seconds are more than a supervisor puts up with (OTP's defaults).
pub const MAX_SECONDS: u32 = 5;
/// Most children of a factory that says nothing.
pub const MAX_CHILDREN: u32 = 100;

/// One word for each.
macro_rules! words {
    ($name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        impl $name {
            /// Each of them, in the order in which they are told.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// As it is written.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// The one that is written so.
            #[must_use]
            pub fn of_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

/// When a process that has ended is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restart {
    /// Always.
    #[default]
    Permanent,
    /// When it ended otherwise than `normal` or `shutdown`.
    Transient,
    /// Never; then it is forgotten.
    Temporary,
}

words!(Restart {
    Permanent = "permanent",
    Transient = "transient",
    Temporary = "temporary",
});

/// Who is started again with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Nobody.
    #[default]
    OneForOne,
    /// All of the supervisor.
    OneForAll,
    /// Those that were started after it.
    RestForOne,
}

words!(Strategy {
    OneForOne = "one_for_one",
    OneForAll = "one_for_all",
    RestForOne = "rest_for_one",
});

/// Whether a supervisor ends with its significant children.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AutoShutdown {
    /// Never.
    #[default]
    Never,
    /// With the first that ends by itself.
    AnySignificant,
    /// With the last.
    AllSignificant,
}

words!(AutoShutdown {
    Never = "never",
    AnySignificant = "any_significant",
    AllSignificant = "all_significant",
});

/// How a process is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Not at all: SIGKILL.
    BrutalKill,
    /// SIGTERM, and SIGKILL when it has not ended within this time.
    Within(Duration),
    /// SIGTERM, and as long as it takes.
    Infinity,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::Within(SHUTDOWN)
    }
}

/// What is executed, never through a shell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// A path, or a name to look for in `PATH`.
    pub command: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables beside those of the node itself.
    pub env: BTreeMap<String, String>,
    /// Where it runs; where the node runs when there is none.
    pub cwd: Option<String>,
}

impl Program {
    /// Whether it can be executed at all, in words.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        let texts = self.args.iter().chain(self.env.iter().flat_map(|(key, value)| [key, value]));
        let bytes: usize = texts.clone().map(|text| text.len() + 1).sum();
        let mut all = texts.chain([&self.command]).chain(&self.cwd);
        if self.command.is_empty() {
            Err("the command is empty".to_owned())
        } else if self.args.len() > ARGS_MAX {
            Err(format!("a command has at most {ARGS_MAX} arguments"))
        } else if bytes + self.command.len() > PROGRAM_BYTES_MAX {
            Err(format!(
                "a command, its arguments and its variables have at most {PROGRAM_BYTES_MAX} bytes together"
            ))
        } else if all.any(|text| text.contains('\0')) {
            Err("a command has a zero byte in it, which the system ends texts with".to_owned())
        } else if let Some(key) = self.env.keys().find(|key| key.is_empty() || key.contains('=')) {
            Err(format!("`{key}` is not the name of a variable"))
        } else {
            Ok(())
        }
    }
}

/// An OS process to be hosted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessSpec {
    /// What it is called under its supervisor.
    pub name: String,
    /// What is executed.
    pub program: Program,
    /// When it is started again.
    pub restart: Restart,
    /// How it is asked to end.
    pub shutdown: Shutdown,
    /// Under whom.
    pub supervisor: String,
    /// Its supervisor may end with it.
    pub significant: bool,
    /// Its name is registered on the node.
    pub register: bool,
}

/// A supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SupervisorSpec {
    /// What it is called.
    pub name: String,
    /// Who is started again with one that has ended.
    pub strategy: Strategy,
    /// More restarts than this ...
    pub max_restarts: u32,
    /// ... within so many seconds end it.
    pub max_seconds: u32,
    /// Whether it ends with its significant children.
    pub auto_shutdown: AutoShutdown,
}

impl SupervisorSpec {
    /// A supervisor as OTP has it when nothing is said.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            strategy: Strategy::default(),
            max_restarts: MAX_RESTARTS,
            max_seconds: MAX_SECONDS,
            auto_shutdown: AutoShutdown::default(),
        }
    }
}

/// A template that this node and others may spawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactorySpec {
    /// What it is called.
    pub name: String,
    /// What is executed; the arguments of a `spawn` are put behind its own.
    pub program: Program,
    /// Most of them at a time.
    pub max_children: u32,
    /// When one is started again.
    pub restart: Restart,
    /// More restarts than this ...
    pub max_restarts: u32,
    /// ... within so many seconds end all of them.
    pub max_seconds: u32,
    /// How one is asked to end.
    pub shutdown: Shutdown,
}

/// All that a node hosts from its start, in the order in which it is started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosting {
    /// The supervisors.
    pub supervisors: Vec<SupervisorSpec>,
    /// Their processes.
    pub processes: Vec<ProcessSpec>,
    /// The factories.
    pub factories: Vec<FactorySpec>,
}

impl Hosting {
    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.supervisors.is_empty() && self.processes.is_empty() && self.factories.is_empty()
    }
}
