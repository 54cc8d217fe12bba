//! The tables of a file that say what the node hosts: `[[supervisor]]`, `[[process]]`, `[[factory]]`.
//!
//! Like everywhere in a file, what is not known is refused with its line, and everything that is wrong is told at once.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use pillion_strategies::nearest;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::machine::Machine;
use crate::config::problem::{Origin, Problem};
use crate::config::value;
use crate::wire::host::{
    AutoShutdown, CHILDREN_MAX, DEFAULT_SUPERVISOR, FactorySpec, Hosting, MAX_CHILDREN,
    MAX_RESTARTS, MAX_SECONDS, ProcessSpec, Program, Restart, SHUTDOWN_MAX, SUPERVISORS_MAX,
    Shutdown, Strategy, SupervisorSpec,
};
use crate::wire::id::check_name;

/// The tables, as a file calls them.
pub(super) const TABLES: [&str; 3] = ["supervisor", "process", "factory"];

const SUPERVISOR: [&str; 5] = ["name", "strategy", "max-restarts", "max-seconds", "auto-shutdown"];
const PROCESS: [&str; 10] = [
    "name",
    "command",
    "args",
    "env",
    "cwd",
    "restart",
    "shutdown",
    "supervisor",
    "significant",
    "register",
];
const FACTORY: [&str; 10] = [
    "name",
    "command",
    "args",
    "env",
    "cwd",
    "max-children",
    "restart",
    "shutdown",
    "max-restarts",
    "max-seconds",
];

/// Where the tables begin, in the order of what is in [`Hosting`].
#[derive(Debug, Default)]
pub(super) struct Places {
    supervisors: Vec<Origin>,
    processes: Vec<Origin>,
    factories: Vec<Origin>,
}

/// One of the tables, and what is wrong in it.
struct Table<'a> {
    kind: &'a str,
    content: &'a DeTable<'a>,
    at: Origin,
    origin: &'a dyn Fn(usize) -> Origin,
    /// Where the file lies, for the paths in it.
    directory: &'a Path,
    machine: &'a Machine,
    problems: &'a mut Vec<Problem>,
}

/// Reads all tables of one kind.
pub(super) fn read<'a>(
    kind: &str,
    value: &'a Spanned<DeValue<'a>>,
    origin: &dyn Fn(usize) -> Origin,
    directory: &Path,
    machine: &Machine,
    (hosting, places): (&mut Hosting, &mut Places),
    problems: &mut Vec<Problem>,
) {
    let at = origin(value.span().start);
    let wrong = || Problem::of_word(at.clone(), kind, format!("is a list of tables: [[{kind}]]"));
    let DeValue::Array(tables) = value.get_ref() else { return problems.push(wrong()) };
    for table in tables {
        let DeValue::Table(content) = table.get_ref() else { return problems.push(wrong()) };
        let at = origin(table.span().start);
        let mut table =
            Table { kind, content, at: at.clone(), origin, directory, machine, problems };
        match kind {
            "supervisor" => {
                hosting.supervisors.push(table.supervisor());
                places.supervisors.push(at);
            }
            "process" => {
                hosting.processes.push(table.process());
                places.processes.push(at);
            }
            _ => {
                hosting.factories.push(table.factory());
                places.factories.push(at);
            }
        }
    }
}

/// What can only be said of all tables together.
pub(super) fn check(hosting: &Hosting, places: &Places, problems: &mut Vec<Problem>) {
    let mut wrong = |at: &Origin, kind: &str, words: String| {
        problems.push(Problem::of_word(at.clone(), kind, words));
    };
    let supervisors = hosting.supervisors.iter().map(|one| ("supervisor", &one.name));
    let processes = hosting.processes.iter().map(|one| ("process", &one.name));
    let factories = hosting.factories.iter().map(|one| ("factory", &one.name));
    let all = supervisors.chain(processes).chain(factories);
    let at = places.supervisors.iter().chain(&places.processes).chain(&places.factories);
    let mut names = BTreeMap::new();
    for ((kind, name), at) in all.zip(at).filter(|((_, name), _)| !name.is_empty()) {
        if let Some(before) = names.insert(name, kind) {
            let text = format!(
                "`{name}` is there twice, first as a {before}: the names of all that is hosted differ"
            );
            wrong(at, kind, text);
        } else if name == DEFAULT_SUPERVISOR && kind != "supervisor" {
            let text = format!("`{name}` is the supervisor of those that name none");
            wrong(at, kind, text);
        }
    }
    let known = |name: &str| {
        name == DEFAULT_SUPERVISOR || hosting.supervisors.iter().any(|one| one.name == name)
    };
    let mut children: BTreeMap<&str, usize> = BTreeMap::new();
    for (process, at) in hosting.processes.iter().zip(&places.processes) {
        let supervisor = process.supervisor.as_str();
        let count = children.entry(supervisor).or_default();
        *count += 1;
        if *count == CHILDREN_MAX + 1 {
            let text = format!("`{supervisor}` has more than {CHILDREN_MAX} children");
            wrong(at, "process", text);
        }
        if !known(supervisor) {
            let all = hosting.supervisors.iter().map(|one| one.name.as_str());
            let hint = nearest(supervisor, all)
                .map(|name| format!("; did you mean `{name}`?"))
                .unwrap_or_default();
            let text = format!(
                "the supervisor `{supervisor}` of `{}` is not there: add a [[supervisor]] of that name{hint}",
                process.name
            );
            wrong(at, "process", text);
        }
    }
    if let Some(at) = places.supervisors.iter().chain(&places.factories).nth(SUPERVISORS_MAX) {
        let text = format!("there are more than {SUPERVISORS_MAX} of them and factories");
        wrong(at, "supervisor", text);
    }
}

impl<'a> Table<'a> {
    fn wrong(&mut self, key: &str, words: impl Into<String>) {
        let at = match self.content.get(key) {
            Some(value) => (self.origin)(value.span().start),
            None => self.at.clone(),
        };
        self.problems.push(Problem::of_word(at, &format!("{}.{key}", self.kind), words));
    }

    fn known(&mut self, keys: &[&str]) {
        for word in self.content.keys() {
            if !keys.contains(&&**word.get_ref()) {
                let at = (self.origin)(word.span().start);
                let hint = match nearest(word.get_ref(), keys.iter().copied()) {
                    Some(candidate) => format!("did you mean `{candidate}`?"),
                    None => format!("a [[{}]] has {}", self.kind, keys.join(", ")),
                };
                let key = format!("{}.{}", self.kind, word.get_ref());
                self.problems.push(Problem::of_word(at, &key, format!("is not known; {hint}")));
            }
        }
    }

    fn value(&self, key: &str) -> Option<&'a DeValue<'a>> {
        self.content.get(key).map(Spanned::get_ref)
    }

    fn text(&mut self, key: &str) -> Option<&'a str> {
        match self.value(key)? {
            DeValue::String(text) => Some(text),
            _ => {
                self.wrong(key, "is a text in quotes");
                None
            }
        }
    }

    fn switch(&mut self, key: &str, default: bool) -> bool {
        match self.value(key) {
            None => default,
            Some(DeValue::Boolean(on)) => *on,
            Some(_) => {
                self.wrong(key, "is true or false");
                default
            }
        }
    }

    fn number(&mut self, key: &str, default: u32, min: u32, max: u32) -> u32 {
        let read = match self.value(key) {
            None => return default,
            Some(DeValue::Integer(number)) if number.radix() == 10 => number.as_str().parse().ok(),
            Some(_) => None,
        };
        read.filter(|number| (min..=max).contains(number)).unwrap_or_else(|| {
            self.wrong(key, format!("is a whole number from {min} to {max}"));
            default
        })
    }

    fn word<T: Default>(
        &mut self,
        key: &str,
        words: &[&str],
        of_word: impl Fn(&str) -> Option<T>,
    ) -> T {
        let Some(text) = self.text(key) else { return T::default() };
        of_word(text).unwrap_or_else(|| {
            let hint = nearest(text, words.iter().copied())
                .map(|word| format!("; did you mean {word}?"))
                .unwrap_or_default();
            self.wrong(key, format!("is one of {}{hint}", words.join(", ")));
            T::default()
        })
    }

    fn texts(&mut self, key: &str) -> Vec<String> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let texts = match value {
            DeValue::Array(items) => items
                .iter()
                .map(|item| match item.get_ref() {
                    DeValue::String(text) => Some(text.to_string()),
                    _ => None,
                })
                .collect(),
            _ => None,
        };
        texts.unwrap_or_else(|| {
            self.wrong(key, "is a list of texts");
            Vec::new()
        })
    }

    fn name(&mut self) -> String {
        let Some(name) = self.text("name") else {
            if self.value("name").is_none() {
                self.wrong("name", "is missing");
            }
            return String::new();
        };
        if let Err(error) = check_name(name) {
            self.wrong("name", error.to_string());
        }
        name.to_owned()
    }

    fn program(&mut self) -> Program {
        let mut env = BTreeMap::new();
        match self.value("env") {
            None => {}
            Some(DeValue::Table(table)) => {
                for (key, value) in table {
                    if let DeValue::String(text) = value.get_ref() {
                        env.insert(key.get_ref().to_string(), text.to_string());
                    } else {
                        self.wrong(
                            "env",
                            format!("is a table of texts, but `{}` is none", key.get_ref()),
                        );
                    }
                }
            }
            Some(_) => self.wrong("env", "is a table of texts"),
        }
        let command = self.text("command").unwrap_or_default();
        if self.value("command").is_none() {
            self.wrong("command", "is missing");
        }
        // A path starts at the file, a name is looked for in PATH.
        let command = if command.contains('/') { self.path(command) } else { command.to_owned() };
        let cwd = self.text("cwd").map(|cwd| self.path(cwd));
        let program = Program { command, args: self.texts("args"), env, cwd };
        if matches!(self.value("command"), Some(DeValue::String(_)))
            && let Err(words) = program.check()
        {
            self.wrong("command", words);
        }
        program
    }

    fn path(&self, text: &str) -> String {
        self.machine.absolute(text, self.directory).to_string_lossy().into_owned()
    }

    fn shutdown(&mut self) -> Shutdown {
        let Some(text) = self.text("shutdown") else { return Shutdown::default() };
        match text {
            "brutal_kill" => Shutdown::BrutalKill,
            "infinity" => Shutdown::Infinity,
            text => match value::parse_duration(text, Duration::ZERO, SHUTDOWN_MAX) {
                Ok(time) => Shutdown::Within(time),
                Err(words) => {
                    self.wrong("shutdown", format!("{words}; or brutal_kill, or infinity"));
                    Shutdown::default()
                }
            },
        }
    }

    fn max_restarts(&mut self) -> u32 {
        self.number("max-restarts", MAX_RESTARTS, 0, 10_000)
    }

    fn max_seconds(&mut self) -> u32 {
        self.number("max-seconds", MAX_SECONDS, 1, 24 * 3600)
    }

    fn supervisor(&mut self) -> SupervisorSpec {
        self.known(&SUPERVISOR);
        SupervisorSpec {
            name: self.name(),
            strategy: self.word("strategy", Strategy::WORDS, Strategy::of_word),
            max_restarts: self.max_restarts(),
            max_seconds: self.max_seconds(),
            auto_shutdown: self.word("auto-shutdown", AutoShutdown::WORDS, AutoShutdown::of_word),
        }
    }

    fn process(&mut self) -> ProcessSpec {
        self.known(&PROCESS);
        let spec = ProcessSpec {
            name: self.name(),
            program: self.program(),
            restart: self.word("restart", Restart::WORDS, Restart::of_word),
            shutdown: self.shutdown(),
            supervisor: self.text("supervisor").unwrap_or(DEFAULT_SUPERVISOR).to_owned(),
            significant: self.switch("significant", false),
            register: self.switch("register", true),
        };
        if spec.significant && spec.restart == Restart::Permanent {
            self.wrong(
                "significant",
                "is for transient and temporary processes: a permanent one never ends by itself",
            );
        }
        spec
    }

    fn factory(&mut self) -> FactorySpec {
        self.known(&FACTORY);
        let most = u32::try_from(CHILDREN_MAX).unwrap_or(u32::MAX);
        FactorySpec {
            name: self.name(),
            program: self.program(),
            max_children: self.number("max-children", MAX_CHILDREN, 1, most),
            restart: match self.value("restart") {
                None => Restart::Temporary,
                Some(_) => self.word("restart", Restart::WORDS, Restart::of_word),
            },
            shutdown: self.shutdown(),
            max_restarts: self.max_restarts(),
            max_seconds: self.max_seconds(),
        }
    }
}

/// The tables again, as TOML that means the same.
pub(super) fn show(hosting: &Hosting) -> String {
    let mut text = String::new();
    for one in &hosting.supervisors {
        let _ = writeln!(
            text,
            "\n[[supervisor]]\nname = {}\nstrategy = {}\nmax-restarts = {}\nmax-seconds = {}\nauto-shutdown = {}",
            quoted(&one.name),
            quoted(one.strategy.word()),
            one.max_restarts,
            one.max_seconds,
            quoted(one.auto_shutdown.word()),
        );
    }
    for one in &hosting.processes {
        let _ = writeln!(text, "\n[[process]]\nname = {}", quoted(&one.name));
        show_program(&one.program, one.restart, one.shutdown, &mut text);
        let _ = writeln!(
            text,
            "supervisor = {}\nsignificant = {}\nregister = {}",
            quoted(&one.supervisor),
            one.significant,
            one.register
        );
    }
    for one in &hosting.factories {
        let _ = writeln!(text, "\n[[factory]]\nname = {}", quoted(&one.name));
        show_program(&one.program, one.restart, one.shutdown, &mut text);
        let _ = writeln!(
            text,
            "max-children = {}\nmax-restarts = {}\nmax-seconds = {}",
            one.max_children, one.max_restarts, one.max_seconds
        );
    }
    text
}

fn show_program(program: &Program, restart: Restart, shutdown: Shutdown, text: &mut String) {
    let args = toml::Value::from(program.args.clone());
    let _ = writeln!(text, "command = {}\nargs = {args}", quoted(&program.command));
    if !program.env.is_empty() {
        let env: toml::Table = program
            .env
            .iter()
            .map(|(key, value)| (key.clone(), toml::Value::from(value.as_str())))
            .collect();
        let _ = writeln!(text, "env = {}", toml::Value::from(env));
    }
    if let Some(cwd) = &program.cwd {
        let _ = writeln!(text, "cwd = {}", quoted(cwd));
    }
    let shutdown = match shutdown {
        Shutdown::BrutalKill => "brutal_kill".to_owned(),
        Shutdown::Infinity => "infinity".to_owned(),
        Shutdown::Within(time) => value::show_duration(time),
    };
    let _ =
        writeln!(text, "restart = {}\nshutdown = {}", quoted(restart.word()), quoted(&shutdown));
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

#[cfg(test)]
mod tests;
