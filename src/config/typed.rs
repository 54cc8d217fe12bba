//! What was typed: flags, environment and file, each value with the place where it was written.
//!
//! Nothing is understood here beyond which key a text belongs to; [`meaning`](super::meaning) does that. For each
//! key only the highest source counts, whole: two `--join` replace what a file lists, they do not add to it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use pillion_strategies::nearest;
use toml::de::{DeTable, DeValue};

use crate::config::hosting::{self, Places, TABLES};
use crate::config::key::{Key, Shape};
use crate::config::machine::Machine;
use crate::config::problem::{Origin, Problem};
use crate::config::strategies;
use crate::wire::host::Hosting;

/// Largest configuration file that is read: a wrong path should not fill the memory.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// Variables that are ours and configure something else: the name in a pod, the file itself, the clients, the tests.
const OTHER_VARIABLES: [&str; 7] = [
    "PILLION_APP",
    "PILLION_CONFIG",
    "PILLION_NODE",
    "PILLION_PID",
    "PILLION_PROCESS",
    "PILLION_SEED",
    "PILLION_ROUNDS",
];

/// One text and where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// As it was written; a pair as `key=value`.
    pub(crate) text: String,
    /// Where.
    pub(crate) origin: Origin,
}

/// What was typed for every key, and what could not even be given to one.
#[derive(Debug, Default)]
pub(crate) struct Typed {
    /// The winning source's items; never an empty list.
    pub(crate) items: BTreeMap<Key, Vec<Item>>,
    /// What is wrong so far.
    pub(crate) problems: Vec<Problem>,
    /// What the file's tables say of programs to host.
    pub(crate) hosting: Hosting,
    /// Where the file lies, for the paths in it.
    pub(crate) file_directory: PathBuf,
}

impl Typed {
    /// Reads everything: flags first, then what they leave open from the environment, then from the file.
    pub(crate) fn read(
        flags: &[(Key, Vec<String>)],
        config: Option<&Path>,
        machine: &Machine,
    ) -> Self {
        let mut typed = Self::default();
        typed.read_flags(flags);
        typed.read_environment(machine);
        let variable = machine.variable("PILLION_CONFIG").map(Path::new);
        match (config, variable) {
            (Some(path), _) => typed.read_file(path, &Origin::Flag("--config".into()), machine),
            (None, Some(path)) => {
                typed.read_file(path, &Origin::Variable("PILLION_CONFIG".into()), machine);
            }
            (None, None) => {}
        }
        typed
    }

    fn put(&mut self, key: Key, items: Vec<Item>) {
        if !items.is_empty() {
            self.items.entry(key).or_insert(items);
        }
    }

    fn read_flags(&mut self, flags: &[(Key, Vec<String>)]) {
        for (key, texts) in flags {
            let origin = Origin::Flag(key.flag());
            let item = |text: &String| Item { text: text.clone(), origin: origin.clone() };
            self.put(*key, texts.iter().map(item).collect());
        }
    }

    fn read_environment(&mut self, machine: &Machine) {
        for (name, value) in &machine.environment {
            let Some(name) = name.to_str().filter(|name| name.starts_with("PILLION_")) else {
                continue;
            };
            let origin = Origin::Variable(name.to_owned());
            let Some(key) = Key::of_variable(name) else {
                let value = value.to_str().unwrap_or_default();
                if !OTHER_VARIABLES.contains(&name) && !is_service_link(name, value) {
                    let words = unknown(name, Key::ALL.iter().map(|key| key.variable()));
                    self.problems.push(Problem::of_word(origin, name, words));
                }
                continue;
            };
            let Some(value) = value.to_str() else {
                let words = "is not UTF-8 text";
                self.problems.push(Problem::of_word(origin, key.word(), words));
                continue;
            };
            let texts: Vec<&str> = match key.shape() {
                Shape::List | Shape::Pairs => value.split(',').map(str::trim).collect(),
                Shape::Urls => value.split_whitespace().collect(),
                Shape::Text | Shape::Number | Shape::Switch => vec![value],
            };
            let texts = texts.into_iter().filter(|text| !text.is_empty());
            let items =
                texts.map(|text| Item { text: text.to_owned(), origin: origin.clone() }).collect();
            self.put(key, items);
        }
    }

    /// Reads a file that `named` points to.
    pub(crate) fn read_file(&mut self, path: &Path, named: &Origin, machine: &Machine) {
        let absolute = machine.absolute(&path.to_string_lossy(), Path::new(""));
        self.file_directory = absolute.parent().map(Path::to_path_buf).unwrap_or_default();
        match read_text(&absolute) {
            Ok(text) => self.read_text(path, &text, machine),
            Err(words) => self.problems.push(Problem {
                origin: named.clone(),
                key: "config".to_owned(),
                value: Some(path.display().to_string()),
                words,
            }),
        }
    }

    /// Reads the text of a file. Every syntax error is told; keys are looked at only when there is none,
    /// because what follows a missing quote is noise.
    fn read_text(&mut self, path: &Path, text: &str, machine: &Machine) {
        let origin = |offset: usize| Origin::File {
            path: path.to_owned(),
            line: 1 + text.bytes().take(offset).filter(|b| *b == b'\n').count(),
        };
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let at = origin(error.span().map_or(0, |span| span.start));
            self.problems.push(Problem::of_word(at, "", error.message()));
        }
        if !errors.is_empty() {
            return;
        }
        let mut places = Places::default();
        for (word, value) in table.get_ref() {
            let at = origin(word.span().start);
            if TABLES.contains(&&**word.get_ref()) {
                hosting::read(
                    word.get_ref(),
                    value,
                    &origin,
                    &self.file_directory,
                    machine,
                    (&mut self.hosting, &mut places),
                    &mut self.problems,
                );
                continue;
            }
            match Key::of_word(word.get_ref()) {
                Some(key) => match items(key, value.get_ref(), &at, &origin) {
                    Ok(items) => self.put(key, items),
                    Err(problem) => self.problems.push(problem),
                },
                None => {
                    let known = Key::ALL.iter().map(|key| key.word()).chain(TABLES);
                    let words = unknown(word.get_ref(), known);
                    self.problems.push(Problem::of_word(at, word.get_ref(), words));
                }
            }
        }
        hosting::check(&self.hosting, &places, &mut self.problems);
    }
}

fn read_text(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err("is larger than 1 MiB: that is no configuration".to_owned());
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())
}

fn unknown<S: AsRef<str>>(word: &str, known: impl Iterator<Item = S>) -> String {
    let known: Vec<S> = known.collect();
    match nearest(word, known.iter().map(AsRef::as_ref)) {
        Some(candidate) => format!("is not known; did you mean `{candidate}`?"),
        None => "is not known; `pillion up --help` lists what is".to_owned(),
    }
}

/// Whether Kubernetes made the variable up: each pod is told of each Service in its namespace, and a Service
/// called `pillion` or `pillion-injector` gives names that begin like ours.
fn is_service_link(name: &str, value: &str) -> bool {
    let is_port = |rest: &str| {
        rest.is_empty()
            || rest.strip_prefix('_').is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()))
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.rsplit_once("_PORT").is_some_and(|(_, rest)| is_port(rest))
            && (value.contains("://") || name.contains("_TCP") || name.contains("_UDP"))
}

/// The texts of one value of a file.
fn items(
    key: Key,
    value: &DeValue<'_>,
    at: &Origin,
    origin: &dyn Fn(usize) -> Origin,
) -> Result<Vec<Item>, Problem> {
    let wrong = |words: String| Problem::of_word(at.clone(), key.word(), words);
    let one = |text: &str| vec![Item { text: text.to_owned(), origin: at.clone() }];
    match (key.shape(), value) {
        // A single item needs no brackets.
        (shape, DeValue::String(text)) if shape != Shape::Pairs => Ok(one(text)),
        (Shape::Number, DeValue::Integer(number)) if number.radix() == 10 => {
            Ok(one(number.as_str()))
        }
        (Shape::Switch, DeValue::Boolean(on)) => Ok(one(if *on { "true" } else { "false" })),
        (Shape::List | Shape::Urls, DeValue::Array(values)) => values
            .iter()
            .map(|value| match value.get_ref() {
                DeValue::String(text) => {
                    Ok(Item { text: text.to_string(), origin: origin(value.span().start) })
                }
                DeValue::Table(table) if key == Key::Strategy => {
                    let at = origin(value.span().start);
                    let text = strategies::url(table, &at, origin)?;
                    Ok(Item { text, origin: at })
                }
                other => Err(wrong(format!("is a list of texts, but has {}", article(other)))),
            })
            .collect(),
        (Shape::Pairs, DeValue::Table(table)) => table
            .iter()
            .map(|(label, value)| match value.get_ref() {
                DeValue::String(text) => Ok(Item {
                    text: format!("{}={text}", label.get_ref()),
                    origin: origin(label.span().start),
                }),
                other => Err(wrong(format!(
                    "is a table of texts, but `{}` is {}",
                    label.get_ref(),
                    article(other)
                ))),
            })
            .collect(),
        (shape, other) => Err(wrong(format!("{}, not {}", wanted(shape), article(other)))),
    }
}

pub(super) fn article(value: &DeValue<'_>) -> String {
    let kind = value.type_str();
    let an = kind.starts_with(['a', 'i']);
    format!("{} {kind}", if an { "an" } else { "a" })
}

const fn wanted(shape: Shape) -> &'static str {
    match shape {
        Shape::Text => "is a text in quotes",
        Shape::Number => "is a whole number or a text in quotes",
        Shape::Switch => "is true or false",
        Shape::List | Shape::Urls => "is a list of texts",
        Shape::Pairs => "is a table of texts",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(environment: &[(&str, &str)]) -> Machine {
        Machine {
            environment: environment.iter().map(|(k, v)| (k.into(), v.into())).collect(),
            ..Machine::default()
        }
    }

    fn of_environment(environment: &[(&str, &str)]) -> Typed {
        Typed::read(&[], None, &machine(environment))
    }

    fn of_text(text: &str) -> Typed {
        let mut typed = Typed::default();
        typed.read_text(Path::new("p.toml"), text, &Machine::default());
        typed
    }

    fn texts(typed: &Typed, key: Key) -> Vec<&str> {
        typed.items.get(&key).into_iter().flatten().map(|item| item.text.as_str()).collect()
    }

    fn problems(typed: &Typed) -> Vec<String> {
        typed.problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_flag_beats_the_environment_whole() {
        let flags = [(Key::Join, vec!["a".to_owned()])];
        let typed = Typed::read(&flags, None, &machine(&[("PILLION_JOIN", "b,c")]));
        assert_eq!(texts(&typed, Key::Join), ["a"]);
    }

    #[test]
    fn an_empty_variable_is_one_that_was_not_set() {
        let typed = of_environment(&[("PILLION_NAME", ""), ("PILLION_JOIN", " , ")]);
        assert!(typed.items.is_empty());
    }

    #[test]
    fn lists_in_the_environment_are_separated_by_commas_and_urls_by_spaces() {
        let typed = of_environment(&[
            ("PILLION_JOIN", "a:1, b:2"),
            ("PILLION_STRATEGY", "list://a:1,b:2 mdns://"),
            ("PILLION_LABELS", "zone=a,rack=7"),
        ]);
        assert_eq!(texts(&typed, Key::Join), ["a:1", "b:2"]);
        assert_eq!(texts(&typed, Key::Strategy), ["list://a:1,b:2", "mdns://"]);
        assert_eq!(texts(&typed, Key::Labels), ["zone=a", "rack=7"]);
    }

    #[test]
    fn an_unknown_variable_is_refused_and_the_nearest_known_one_named() {
        let typed = of_environment(&[("PILLION_MEHS", "a"), ("PATH", "/bin")]);
        assert_eq!(problems(&typed), ["PILLION_MEHS: is not known; did you mean `PILLION_MESH`?"]);
    }

    #[test]
    fn what_kubernetes_says_of_a_service_called_pillion_is_not_a_typing_error() {
        let typed = of_environment(&[
            ("PILLION_SERVICE_HOST", "10.0.0.1"),
            ("PILLION_SERVICE_PORT", "4470"),
            ("PILLION_SERVICE_PORT_MESH", "4470"),
            ("PILLION_PORT", "tcp://10.0.0.1:4470"),
            ("PILLION_PORT_4470_TCP", "tcp://10.0.0.1:4470"),
            ("PILLION_PORT_4470_TCP_ADDR", "10.0.0.1"),
            ("PILLION_INJECTOR_PORT_443_TCP_PROTO", "tcp"),
            ("PILLION_NODE", "stock@hal"),
        ]);
        assert_eq!(problems(&typed), [""; 0]);
        assert_eq!(problems(&of_environment(&[("PILLION_PORT", "4470")])).len(), 1);
    }

    #[test]
    fn an_unknown_key_of_a_file_is_refused_with_its_line() {
        let typed = of_text("name = \"a\"\n\nmailbox-entires = 5\n[labels]\nzone = \"a\"\n");
        assert_eq!(
            problems(&typed),
            ["p.toml:3: mailbox-entires: is not known; did you mean `mailbox-entries`?"]
        );
        assert_eq!(texts(&typed, Key::Labels), ["zone=a"]);
    }

    #[test]
    fn every_value_of_a_file_knows_its_line() {
        let typed = of_text("join = [\n \"a\",\n \"b\",\n]\n[labels]\nzone = \"a\"\n");
        let line = |key, index: usize| typed.items[&key][index].origin.to_string();
        assert_eq!(line(Key::Join, 1), "p.toml:3");
        assert_eq!(line(Key::Labels, 0), "p.toml:6");
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_refused_in_words() {
        let typed = of_text("name = 5\njoin = [1]\nhidden = 1\nlabels = \"a\"\nbody-max = 1.5\n");
        let mut told = problems(&typed);
        told.sort();
        assert_eq!(
            told,
            [
                "p.toml:1: name: is a text in quotes, not an integer",
                "p.toml:2: join: is a list of texts, but has an integer",
                "p.toml:3: hidden: is true or false, not an integer",
                "p.toml:4: labels: is a table of texts, not a string",
                "p.toml:5: body-max: is a whole number or a text in quotes, not a float",
            ]
        );
    }

    #[test]
    fn a_broken_file_is_told_by_line() {
        let typed = of_text("name = \"a\"\nmesh = = 1\n");
        assert!(problems(&typed)[0].starts_with("p.toml:2: "), "{:?}", problems(&typed));
        let typed = of_text("name = \"a\"\nname = \"b\"\n");
        assert!(problems(&typed)[0].starts_with("p.toml:2: "), "{:?}", problems(&typed));
    }
}
