//! Variables, and whether what came is what was expected.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// What the variables of a script stand for by now.
#[derive(Debug, Default)]
pub struct Names {
    bound: BTreeMap<String, Value>,
    last_id: u64,
    counts: Counts,
    /// Those of the connection, until its `welcome` says of which session it is.
    apart: Option<Counts>,
    resumes: bool,
}

/// Frames of a session.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    commands: i64,
    events: i64,
}

impl Names {
    /// A new connection, of a session that nobody knows yet.
    pub fn connected(&mut self) {
        (self.apart, self.resumes) = (Some(Counts::default()), false);
    }

    /// A command went by, whoever wrote it.
    pub fn command(&mut self, frame: &Value) {
        if frame["op"] == "hello" {
            self.resumes = !frame["resume"].is_null();
        }
        self.apart.as_mut().unwrap_or(&mut self.counts).commands += 1;
    }

    /// An answer or an event went by.
    pub fn event(&mut self, frame: &Value) {
        self.apart.as_mut().unwrap_or(&mut self.counts).events += 1;
        if frame["ev"] == "welcome"
            && let Some(apart) = self.apart.take()
        {
            let before = if self.resumes { self.counts } else { Counts::default() };
            self.counts = Counts {
                commands: before.commands + apart.commands,
                events: before.events + apart.events,
            };
        }
    }

    /// `{"$commands": n}` is n more than the commands of the session by now, `{"$seen": n}` the same of what its app got.
    fn count(&self, members: &Map<String, Value>) -> Option<Value> {
        let apart = self.apart.filter(|_| self.resumes).unwrap_or_default();
        let alone = self.apart.filter(|_| !self.resumes);
        if let Some(beside) = members.get("$commands").and_then(Value::as_i64) {
            let all = alone.map_or(self.counts.commands + apart.commands, |apart| apart.commands);
            return Some((all + beside).into());
        }
        let beside = members.get("$seen").and_then(Value::as_i64)?;
        Some((self.counts.events + beside).into())
    }

    pub fn bind(&mut self, name: &str, value: Value) {
        self.bound.insert(name.to_owned(), value);
    }

    /// What the kit writes for this: variables as they are, or as `values` has them when nobody has said them yet.
    ///
    /// An id that nobody has said is the next number.
    pub fn fill(&mut self, value: &Value, values: &Map<String, Value>) -> Result<Value, String> {
        self.fill_at("", value, values)
    }

    fn fill_at(
        &mut self,
        key: &str,
        value: &Value,
        values: &Map<String, Value>,
    ) -> Result<Value, String> {
        Ok(match value {
            Value::String(name) if name.starts_with('$') => {
                if let Some(known) = self.bound.get(name) {
                    return Ok(known.clone());
                }
                let value = match values.get(name) {
                    Some(value) => value.clone(),
                    None if key == "id" => {
                        self.last_id += 1;
                        self.last_id.into()
                    }
                    None => return Err(format!("nobody has said what {name} is")),
                };
                self.bind(name, value.clone());
                value
            }
            Value::Array(items) => {
                let items = items.iter().map(|item| self.fill_at("", item, values));
                items.collect::<Result<Vec<_>, _>>()?.into()
            }
            Value::Object(members) if members.contains_key("$set") => {
                self.fill_at("", &members["$set"], values)?
            }
            Value::Object(members) if self.count(members).is_some() => {
                self.count(members).unwrap_or_default()
            }
            // The part of a text that must be there is a text that has it.
            Value::Object(members) if members.contains_key("$has") => members["$has"].clone(),
            Value::Object(members) => {
                let mut filled = Map::new();
                for (key, value) in members {
                    if value.get("$absent").is_none() {
                        filled.insert(key.clone(), self.fill_at(key, value, values)?);
                    }
                }
                filled.into()
            }
            other => other.clone(),
        })
    }

    /// Whether `got` is what was expected; then its variables are known. If not, says where they part.
    pub fn meet(&mut self, expected: &Value, got: &Value) -> Result<(), String> {
        let mut learnt = BTreeMap::new();
        self.compare("", expected, got, false, &mut learnt)?;
        self.bound.extend(learnt);
        Ok(())
    }

    /// The same, and nothing is learnt.
    pub fn meets(&self, expected: &Value, got: &Value) -> bool {
        self.compare("", expected, got, false, &mut BTreeMap::new()).is_ok()
    }

    /// `whole`: no other members than the expected ones may be there, as in a body.
    fn compare(
        &self,
        path: &str,
        expected: &Value,
        got: &Value,
        whole: bool,
        learnt: &mut BTreeMap<String, Value>,
    ) -> Result<(), String> {
        let known = match expected {
            Value::String(name) => self.bound.get(name).or(learnt.get(name)).cloned(),
            _ => None,
        };
        let differs = || {
            let place = if path.is_empty() { String::new() } else { format!("`{path}` ") };
            let expected = match &known {
                Some(value) => format!("{expected}, which is {value}"),
                None => expected.to_string(),
            };
            Err(format!("{place}is {got}, not {expected}"))
        };
        match expected {
            Value::String(name) if name.starts_with('$') => {
                match &known {
                    Some(known) if !same(known, got) => return differs(),
                    Some(_) => {}
                    None if got.is_null() => return differs(),
                    None => {
                        learnt.insert(name.clone(), got.clone());
                    }
                }
                Ok(())
            }
            Value::Object(members) if members.contains_key("$any") => Ok(()),
            Value::Object(members) if self.count(members).is_some() => {
                let count = self.count(members).unwrap_or_default();
                if count == *got { Ok(()) } else { Err(format!("`{path}` is {got}, not {count}")) }
            }
            Value::Object(members) if members.contains_key("$has") => {
                let part = members["$has"].as_str().unwrap_or_default();
                if got.as_str().is_some_and(|text| text.contains(part)) {
                    Ok(())
                } else {
                    differs()
                }
            }
            Value::Object(members) if members.contains_key("$above") => {
                let least = members["$above"].as_f64().unwrap_or_default();
                if got.as_f64().is_some_and(|number| number > least) { Ok(()) } else { differs() }
            }
            Value::Object(members) if members.contains_key("$set") => {
                let wanted = members["$set"].as_array().map(Vec::as_slice).unwrap_or_default();
                let Some(items) = got.as_array() else { return differs() };
                let mut items: Vec<&Value> = items.iter().collect();
                for one in wanted {
                    let found = items
                        .iter()
                        .position(|item| self.compare(path, one, item, whole, learnt).is_ok());
                    let Some(found) = found else { return differs() };
                    items.remove(found);
                }
                if items.is_empty() { Ok(()) } else { differs() }
            }
            Value::Object(members) => {
                let Some(there) = got.as_object() else { return differs() };
                for (key, value) in members {
                    let inner = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    if value.get("$absent").is_some() {
                        match there.get(key) {
                            None | Some(Value::Null) => continue,
                            Some(value) => return Err(format!("`{inner}` is there: {value}")),
                        }
                    }
                    let got = there.get(key).unwrap_or(&Value::Null);
                    let whole = whole || key == "body";
                    self.compare(&inner, value, got, whole, learnt)?;
                }
                let more = there.keys().find(|key| !members.contains_key(*key));
                match more {
                    Some(key) if whole => Err(format!("`{path}` has `{key}` too")),
                    _ => Ok(()),
                }
            }
            Value::Array(items) => {
                let Some(there) = got.as_array().filter(|there| there.len() == items.len()) else {
                    return differs();
                };
                for (at, (item, got)) in items.iter().zip(there).enumerate() {
                    self.compare(&format!("{path}[{at}]"), item, got, whole, learnt)?;
                }
                Ok(())
            }
            other if same(other, got) => Ok(()),
            _ => differs(),
        }
    }
}

/// Equal, where 1 and 1.0 are the same number: not every language tells them apart.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}
