//! `pillion pub`, `sub` and `topics`: messages to whoever has subscribed.

use std::collections::VecDeque;
use std::io::BufRead as _;
use std::time::Duration;

use clap::Args;
use serde_json::Value as Json;

use super::connection::{Connection, Heard};
use super::exit::{Exit, Failure};
use super::messages::{Form, Mode, duration, with_body};
use super::output::note;
use super::processes::cell;
use super::{Globals, clean, table};
use crate::client::{Event, Op, Pending, WINDOW};
use crate::wire::cbor;
use crate::wire::command::Delivery;

/// How many lines are on their way before the first of them is answered.
const AHEAD: usize = 256;

const PUB_EXAMPLES: &str = "\
Without BODY each line of standard input is a message of its own; `-` is all of standard input as one.

Examples:
  pillion pub shop.tea '{\"left\": 3}'
  pillion pub lamp.hall '\"on\"' --retain
  tail -f access.log | pillion pub logs.web --text";

const SUB_EXAMPLES: &str = "\
In a pattern `*` stands for one segment and a last `>` for one or more. A line is the topic and the body as JSON. Ends with
1 when less came than --count.

Examples:
  pillion sub shop.tea
  pillion sub 'shop.*' 'lamp.>'
  pillion sub logs.web --raw --count 10
  pillion sub jobs --queue workers --json | jq -c .body";

#[derive(Args, Clone, Debug)]
#[command(after_help = PUB_EXAMPLES)]
pub(super) struct PubArgs {
    /// The topic, without wildcards
    topic: String,
    /// The message, as JSON; `-` reads it from standard input
    #[arg(allow_hyphen_values = true)]
    body: Option<String>,
    /// Publishes BODY, or each line, as a text, whatever is in it
    #[arg(long, conflicts_with = "raw")]
    text: bool,
    /// Publishes BODY, or each line, as bytes of the content type application/octet-stream
    #[arg(long)]
    raw: bool,
    /// Keeps it for those who subscribe later
    #[arg(long)]
    retain: bool,
    /// Clears what is kept for the topic
    #[arg(long, conflicts_with_all = ["body", "retain", "text", "raw"])]
    clear: bool,
    /// Only to subscribers on this node
    #[arg(long, conflicts_with = "node")]
    local: bool,
    /// Only to subscribers on this one
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// What to do when a queue on the way is full
    #[arg(long, value_enum, default_value_t = Mode::Wait)]
    mode: Mode,
}

#[derive(Args, Clone, Debug)]
#[command(after_help = SUB_EXAMPLES)]
pub(super) struct SubArgs {
    /// Topics and patterns
    #[arg(required = true, value_name = "PATTERN")]
    patterns: Vec<String>,
    /// Joins this queue group: one of its members gets each message
    #[arg(long, short = 'q', value_name = "GROUP")]
    queue: Option<String>,
    /// Ends after so many messages
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Ends when nothing has come for so long
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
    /// Prints bodies only: a text as it is, bytes as they are, all else as JSON
    #[arg(long, conflicts_with_all = ["pretty", "json"])]
    raw: bool,
    /// Prints bodies over several lines
    #[arg(long, conflicts_with = "json")]
    pretty: bool,
}

impl PubArgs {
    fn op(&self) -> Op {
        let op = self.mode.of(Op::new("publish").text("topic", &self.topic));
        let op = op.maybe_text("node", self.node.as_deref());
        let op = op.maybe_text("scope", self.local.then_some("local"));
        let op = if self.retain || self.clear { op.bool("retain", true) } else { op };
        op.bool("report", true)
    }
}

pub(super) async fn publish(globals: &Globals, args: &PubArgs) -> Result<(), Failure> {
    let form = Form::of(args.text, args.raw);
    let op = match &args.body {
        Some(body) => Some(with_body(args.op(), body, form)?),
        None => args.clear.then(|| args.op()),
    };
    let connection = Connection::open(globals, "pub", Delivery::Pull).await?;
    if let Some(op) = op {
        let answer = connection.request(op).await?;
        if globals.json {
            connection.output.say(&answer.to_json())?;
        } else if !args.retain && !args.clear && reached(&answer) == 0 {
            note(&format!("nobody has subscribed to {}", clean(&args.topic)));
        }
        return connection.close().await;
    }
    let mut lines = lines();
    let mut ahead: VecDeque<Pending> = VecDeque::new();
    let mut unheard = 0_u64;
    let mut published = 0_u64;
    loop {
        let line = if ahead.is_empty() {
            lines.recv().await
        } else {
            // What is there already goes out together; else the answers are heard meanwhile.
            match lines.try_recv() {
                Ok(line) if ahead.len() < AHEAD => Some(line),
                other => {
                    if let Some(first) = ahead.pop_front() {
                        unheard += told(&connection, first).await?;
                    }
                    match other {
                        Ok(line) => Some(line),
                        Err(_) => continue,
                    }
                }
            }
        };
        let Some(line) = line else { break };
        let line = line.map_err(|error| {
            Failure::new(Exit::Data, format!("cannot read standard input: {error}"))
        })?;
        let op = form.of_line(args.op(), line)?;
        ahead.push_back(connection.client.start(op).await?);
        published += 1;
    }
    if unheard > 0 {
        note(&format!("{unheard} of {published} messages had no subscriber"));
    }
    connection.close().await
}

/// Waits for one answer: 1 when nobody has heard the message.
async fn told(connection: &Connection, pending: Pending) -> Result<u64, Failure> {
    let answer = pending.answer().await?;
    if connection.output.json {
        connection.output.say(&answer.to_json())?;
    }
    Ok(u64::from(reached(&answer) == 0))
}

fn reached(answer: &Event) -> u64 {
    answer.uint("nodes").unwrap_or(0) + answer.uint("local").unwrap_or(0)
}

/// The lines of standard input, read by a thread of their own: reading it cannot be waited for otherwise.
fn lines() -> tokio::sync::mpsc::Receiver<std::io::Result<Vec<u8>>> {
    let (sender, lines) = tokio::sync::mpsc::channel(AHEAD);
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        loop {
            let mut line = Vec::new();
            let read = input.read_until(b'\n', &mut line);
            let line = match read {
                Ok(0) => return,
                Ok(_) => {
                    if line.last() == Some(&b'\n') {
                        line.pop();
                    }
                    Ok(line)
                }
                Err(error) => Err(error),
            };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

pub(super) async fn subscribe(globals: &Globals, args: &SubArgs) -> Result<(), Failure> {
    let mut connection = Connection::open(globals, "sub", WINDOW).await?;
    for pattern in &args.patterns {
        let op = Op::new("subscribe").text("topic", pattern).bool("sync", true);
        connection.request(op.maybe_text("group", args.queue.as_deref())).await?;
    }
    note(&format!("subscribed to {}; ctrl-c ends", clean(&args.patterns.join(" "))));
    let mut left = args.count;
    while left != Some(0) {
        match connection.hear(args.timeout).await? {
            Heard::Enough => break,
            Heard::Nothing => {
                let came = args.count.unwrap_or(1) - left.unwrap_or(1);
                return match args.count {
                    Some(_) => Err(Failure::new(
                        Exit::No,
                        format!("nothing more came in time, {came} messages before that"),
                    )),
                    None => Ok(()),
                };
            }
            Heard::Event(event) if event.name() == "message" => {
                show(&connection, args, &event)?;
                left = left.map(|left| left - 1);
            }
            Heard::Event(event) => {
                if globals.json {
                    connection.output.say(&event.to_json())?;
                } else {
                    note(&clean(&event.to_json()));
                }
            }
        }
    }
    connection.close().await
}

fn show(connection: &Connection, args: &SubArgs, event: &Event) -> Result<(), Failure> {
    let output = &connection.output;
    if args.raw {
        if event.text("ct").is_some() {
            return output.put(event.body());
        }
        let mut reader = cbor::Reader::new(event.body());
        return match reader.text() {
            Ok(text) => output.say(text),
            Err(_) => output.say(&event.body_json()),
        };
    }
    let topic = event.text("topic").unwrap_or("-");
    if args.pretty {
        let body = event.to_value()["body"].clone();
        let body = serde_json::to_string_pretty(&body).unwrap_or_default();
        let lines: Vec<String> = body.lines().map(clean).collect();
        return output.say(&format!("{}\n{}", clean(topic), lines.join("\n")));
    }
    output.tell(event, || clean(&format!("{topic} {}", event.body_json())))
}

pub(super) async fn topics(globals: &Globals) -> Result<(), Failure> {
    let connection = Connection::open(globals, "topics", Delivery::Pull).await?;
    connection.show(Op::new("topics"), "topics", topics_table).await?;
    connection.close().await
}

/// One row for each topic: how many subscriptions here, and on how many other nodes there are some.
pub(super) fn topics_table(topics: &Json) -> String {
    let topics = topics.as_array().into_iter().flatten();
    let mut rows: Vec<_> =
        topics.map(|topic| ["topic", "local", "nodes"].map(|key| cell(&topic[key]))).collect();
    rows.sort();
    table(["TOPIC", "HERE", "NODES"], &rows)
}
