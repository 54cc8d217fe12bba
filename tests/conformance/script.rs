//! Scripts: what they say, and their parts and repetitions written out.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// One promise, and the steps that show whether it is kept.
#[derive(Debug)]
pub struct Script {
    pub name: String,
    pub promise: String,
    /// Why it cannot be played with a real node; empty where it can.
    pub not_with_node: String,
    /// Environment of the driver.
    pub env: BTreeMap<String, String>,
    /// What variables are when the kit writes them first.
    pub values: Map<String, Value>,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug)]
pub struct Step {
    pub does: Does,
    /// `client` or `node`: only played with that.
    pub only: Option<String>,
    /// As it was written.
    pub text: String,
}

#[derive(Clone, Debug)]
pub enum Does {
    App(Map<String, Value>),
    /// A frame of the client. What is optional may come later than here or never; `then` is its answer.
    Out {
        frame: Value,
        optional: bool,
        then: Option<Value>,
    },
    /// A frame of the node; what is optional may find the client gone.
    In {
        frame: Value,
        optional: bool,
    },
    Sees {
        label: String,
        rest: Map<String, Value>,
    },
    Unseen(String),
    Other {
        frame: Value,
        node: String,
    },
    OtherIn {
        frame: Value,
        node: String,
    },
    Node {
        does: String,
        name: String,
    },
    Kit {
        does: String,
        with: Map<String, Value>,
    },
}

/// Where the scripts are.
pub fn directory() -> PathBuf {
    std::env::var_os("CONFORMANCE_SCRIPTS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/scripts"),
        PathBuf::from,
    )
}

/// Every script, or those whose names have one of the texts in `CONFORMANCE_ONLY` (with commas between) in them.
pub fn all() -> Vec<Script> {
    let only = std::env::var("CONFORMANCE_ONLY").unwrap_or_default();
    let wanted: Vec<&str> = only.split(',').filter(|part| !part.is_empty()).collect();
    let directory = directory();
    let mut names: Vec<String> = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
        .collect();
    names.sort();
    names.retain(|name| wanted.is_empty() || wanted.iter().any(|part| name.contains(part)));
    assert!(!names.is_empty(), "no script in {} has `{only}` in its name", directory.display());
    names
        .iter()
        .map(|name| read(&directory, name).unwrap_or_else(|e| panic!("{name}: {e}")))
        .collect()
}

/// The script of this name.
pub fn named(name: &str) -> Script {
    read(&directory(), name).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn read(directory: &Path, name: &str) -> Result<Script, String> {
    let file = load(&directory.join(format!("{name}.json")))?;
    let known = ["promise", "node", "why", "env", "values", "steps"];
    if let Some(key) = file.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(format!("a script has no member `{key}`"));
    }
    let promise = file.get("promise").and_then(Value::as_str).ok_or("it promises nothing")?;
    let not_with_node = match file.get("node") {
        Some(Value::Bool(false)) => file
            .get("why")
            .and_then(Value::as_str)
            .ok_or("`node` is false, and `why` is not said")?,
        None => "",
        Some(_) => return Err("`node` is false or is left out".to_owned()),
    };
    let mut script = Script {
        name: name.to_owned(),
        promise: promise.to_owned(),
        not_with_node: not_with_node.to_owned(),
        env: BTreeMap::new(),
        values: Map::new(),
        steps: Vec::new(),
    };
    for (key, value) in object(file.get("env"))? {
        script.env.insert(key, value.as_str().ok_or("`env` has texts")?.to_owned());
    }
    script.values = object(file.get("values"))?;
    let steps = file.get("steps").and_then(Value::as_array).ok_or("it has no `steps`")?;
    for step in steps {
        add(directory, &mut script, step)?;
    }
    Ok(script)
}

fn load(path: &Path) -> Result<Map<String, Value>, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    match serde_json::from_str(&text) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(format!("{} is no object", path.display())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn object(value: Option<&Value>) -> Result<Map<String, Value>, String> {
    match value {
        None => Ok(Map::new()),
        Some(Value::Object(members)) => Ok(members.clone()),
        Some(other) => Err(format!("not an object: {other}")),
    }
}

fn add(directory: &Path, script: &mut Script, step: &Value) -> Result<(), String> {
    let members = step.as_object().ok_or_else(|| format!("a step is an object, not {step}"))?;
    if let Some(times) = members.get("repeat") {
        let times = times.as_u64().ok_or("`repeat` is a number")?;
        let steps = members.get("steps").and_then(Value::as_array).ok_or("`repeat` has `steps`")?;
        for turn in 0..times {
            for step in steps {
                add(directory, script, &of_turn(step, turn))?;
            }
        }
        return Ok(());
    }
    if let Some(part) = members.get("steps") {
        let part = part.as_str().ok_or("`steps` is the name of a part")?;
        let file = load(&directory.join("parts").join(format!("{part}.json")))?;
        for (name, value) in object(file.get("values"))? {
            script.values.entry(name).or_insert(value);
        }
        for step in file.get("steps").and_then(Value::as_array).ok_or("a part has `steps`")? {
            add(directory, script, step)?;
        }
        return Ok(());
    }
    script.steps.push(one(members).map_err(|error| format!("{step}: {error}"))?);
    Ok(())
}

/// The same step with `$i` as the number of its turn, and the variables `$each...` as those of this turn.
fn of_turn(step: &Value, turn: u64) -> Value {
    match step {
        Value::String(text) if text == "$i" => turn.into(),
        Value::String(text) if text.starts_with("$each") => format!("{text}.{turn}").into(),
        Value::String(text) => text.replace("{i}", &turn.to_string()).into(),
        Value::Array(items) => items.iter().map(|item| of_turn(item, turn)).collect(),
        Value::Object(members) => members
            .iter()
            .map(|(key, value)| (key.clone(), of_turn(value, turn)))
            .collect::<Map<_, _>>()
            .into(),
        other => other.clone(),
    }
}

/// The same with `{"$times": N, "of": TEXT}` as that text N times.
fn long(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(long).collect(),
        Value::Object(members) => match (members.get("$times"), members.get("of")) {
            (Some(times), Some(Value::String(text))) => {
                let times = times.as_u64().and_then(|times| usize::try_from(times).ok());
                text.repeat(times.unwrap_or_default()).into()
            }
            _ => members
                .iter()
                .map(|(key, value)| (key.clone(), long(value)))
                .collect::<Map<_, _>>()
                .into(),
        },
        other => other.clone(),
    }
}

fn one(written: &Map<String, Value>) -> Result<Step, String> {
    let shown = Value::Object(written.clone()).to_string();
    let members = &long(&Value::Object(written.clone()));
    let members = members.as_object().ok_or("a step is an object")?;
    let text = |key: &str| members.get(key).and_then(Value::as_str).map(str::to_owned);
    let nouns = ["app", "out", "in", "sees", "unseen", "other", "other_in", "node", "kit"];
    let noun = nouns.into_iter().find(|noun| members.contains_key(*noun)).ok_or("what is it?")?;
    let mut rest = members.clone();
    rest.remove("only");
    let said = rest.remove(noun).unwrap_or_default();
    let named = said.as_str().map(str::to_owned);
    let at = text("at").unwrap_or_else(|| "a".to_owned());
    let does = match noun {
        "app" => {
            rest.insert("do".to_owned(), named.ok_or("`app` is an action")?.into());
            Does::App(rest)
        }
        "out" => Does::Out {
            frame: said,
            optional: members.contains_key("optional"),
            then: members.get("then").cloned(),
        },
        "in" => Does::In { frame: said, optional: members.contains_key("optional") },
        "sees" => Does::Sees { label: named.ok_or("`sees` is a label")?, rest },
        "unseen" => Does::Unseen(named.ok_or("`unseen` is a label")?),
        "other" => Does::Other { frame: said, node: at },
        "other_in" => Does::OtherIn { frame: said, node: at },
        "node" => Does::Node { does: named.ok_or("`node` is a text")?, name: at },
        _ => Does::Kit { does: named.ok_or("`kit` is a text")?, with: rest },
    };
    Ok(Step { does, only: text("only"), text: shown })
}
