//! `pillion send`, `cast` and `receive`: two terminals that talk.

use std::io::Read as _;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::connection::{Connection, Heard};
use super::exit::{Exit, Failure};
use super::nodes::milliseconds;
use super::output::note;
use super::{Globals, clean};
use crate::client::{Event, Op, WINDOW};
use crate::dialect::json::json_to_cbor;
use crate::wire::command::Delivery;

/// Most bytes read from standard input: more than any node accepts for a body, which it says itself.
const STDIN_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What bytes are called that nobody has described.
pub(super) const OPAQUE: &str = "application/octet-stream";

/// Longest time that anything here waits: a day.
const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);

const SEND_EXAMPLES: &str = "\
TO is a name (stock), a name on another node (stock@b@hal), a name of the whole mesh (global:stock), all members of a
group (group:tills), or a pid in quotes.

Examples:
  pillion send stock '{\"sku\": 7, \"n\": 2}'
  pillion send stock@b@hal --text 'hello there'
  date | pillion send clock --text -
  pillion send camera --raw - < photo.jpg
  pillion send stock '\"late\"' --after 5s";

const CAST_EXAMPLES: &str = "\
The receiver hears a `cast`, GenServer's request without an answer, instead of a message.

Examples:
  pillion cast stock '[\"put\", \"apples\", 3]'
  pillion cast group:tills '\"close\"'";

const RECEIVE_EXAMPLES: &str = "\
A line is the sender's pid and the body as JSON. Ends with 1 when less came than --count.

Examples:
  pillion receive inbox
  pillion receive inbox --count 1 --timeout 10s
  pillion receive inbox --json | jq -c .body";

#[derive(Args, Clone, Debug)]
#[command(after_help = SEND_EXAMPLES)]
pub(super) struct SendArgs {
    /// Whom: a name, a name on another node, or a pid
    to: String,
    /// The message, as JSON; `-` reads it from standard input
    #[arg(allow_hyphen_values = true)]
    body: String,
    /// Sends BODY as a text, whatever is in it
    #[arg(long, conflicts_with = "raw")]
    text: bool,
    /// Sends BODY as bytes of the content type application/octet-stream, whatever is in it
    #[arg(long)]
    raw: bool,
    /// Waits so long before it sends
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    after: Option<Duration>,
    /// What to do when a queue on the way is full
    #[arg(long, value_enum, default_value_t = Mode::Wait)]
    mode: Mode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    /// Wait a while, then fail
    Wait,
    /// Fail at once
    Try,
    /// Lose the message
    Lossy,
}

impl Mode {
    pub(super) fn of(self, op: Op) -> Op {
        match self {
            Self::Wait => op,
            Self::Try => op.text("mode", "try"),
            Self::Lossy => op.text("mode", "lossy"),
        }
    }
}

#[derive(Args, Clone, Debug)]
#[command(after_help = CAST_EXAMPLES)]
pub(super) struct CastArgs {
    /// Whom: a name, a name on another node, group:NAME, global:NAME, or a pid
    to: String,
    /// The request, as JSON; `-` reads it from standard input
    #[arg(allow_hyphen_values = true)]
    body: String,
    /// Sends BODY as a text, whatever is in it
    #[arg(long, conflicts_with = "raw")]
    text: bool,
    /// Sends BODY as bytes of the content type application/octet-stream, whatever is in it
    #[arg(long)]
    raw: bool,
    /// What to do when a queue on the way is full
    #[arg(long, value_enum, default_value_t = Mode::Wait)]
    mode: Mode,
}

#[derive(Args, Clone, Debug)]
#[command(after_help = RECEIVE_EXAMPLES)]
pub(super) struct ReceiveArgs {
    /// The name to take
    name: String,
    /// Ends after so many messages
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Ends when nothing has come for so long
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
}

pub(super) async fn cast(globals: &Globals, args: &CastArgs) -> Result<(), Failure> {
    let op = args.mode.of(Op::new("cast").text("to", &args.to));
    let op = with_body(op, &args.body, Form::of(args.text, args.raw))?;
    let connection = Connection::open(globals, "cast", Delivery::Pull).await?;
    let answer = connection.request(op).await?;
    if globals.json {
        connection.output.say(&answer.to_json())?;
    }
    connection.close().await
}

pub(super) async fn send(globals: &Globals, args: &SendArgs) -> Result<(), Failure> {
    let op = args.mode.of(Op::new("send").text("to", &args.to));
    let op = with_body(op, &args.body, Form::of(args.text, args.raw))?;
    let connection = Connection::open(globals, "send", Delivery::Pull).await?;
    if let Some(after) = args.after {
        // Waiting here instead of `send_after`: that ends with the process that asked for it, which is this one.
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => {
                return Err(Failure::new(Exit::No, "stopped before it was sent"));
            }
            () = tokio::time::sleep(after) => {}
        }
    }
    let answer = connection.request(op).await?;
    if globals.json {
        connection.output.say(&answer.to_json())?;
    }
    connection.close().await
}

/// What a body was typed as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    Text,
    Raw,
}

impl Form {
    pub(super) const fn of(text: bool, raw: bool) -> Self {
        match (raw, text) {
            (true, _) => Self::Raw,
            (_, true) => Self::Text,
            _ => Self::Json,
        }
    }

    /// Adds a body that is one line of standard input.
    pub(super) fn of_line(self, op: Op, line: Vec<u8>) -> Result<Op, Failure> {
        typed(op, line, self)
    }
}

/// Adds a body that was typed, or that stands in standard input.
pub(super) fn with_body(op: Op, body: &str, form: Form) -> Result<Op, Failure> {
    let piped = body == "-";
    let mut body = if piped { read_stdin()? } else { body.to_owned().into_bytes() };
    if piped && form == Form::Text && body.last() == Some(&b'\n') {
        body.pop();
    }
    typed(op, body, form)
}

fn typed(op: Op, body: Vec<u8>, form: Form) -> Result<Op, Failure> {
    if form == Form::Raw {
        return Ok(op.text("ct", OPAQUE).body(&body));
    }
    if form == Form::Text {
        let text = String::from_utf8(body).map_err(|_| {
            Failure::new(Exit::Data, "the body is not UTF-8: give --raw to send it as bytes")
        })?;
        return Ok(op.text_body(&text));
    }
    let item = json_to_cbor(body.trim_ascii()).map_err(|error| {
        let shown: String = String::from_utf8_lossy(&body).chars().take(60).collect();
        let words = format!(
            "the body `{}` cannot be sent: {}. A text is '\"quoted\"', or give --text to send it as it is",
            clean(&shown),
            clean(&error.message)
        );
        Failure::new(Exit::Data, words)
    })?;
    Ok(op.body(&item))
}

fn read_stdin() -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(STDIN_BYTES_MAX).read_to_end(&mut bytes);
    read.map_err(|error| {
        Failure::new(Exit::Data, format!("cannot read the body from standard input: {error}"))
    })?;
    Ok(bytes)
}

pub(super) async fn receive(globals: &Globals, args: &ReceiveArgs) -> Result<(), Failure> {
    let mut connection = Connection::open(globals, "receive", WINDOW).await?;
    connection.request(Op::new("register").text("name", &args.name)).await?;
    note(&format!(
        "receiving as {}, from other nodes as {}@{}; ctrl-c ends",
        args.name, args.name, connection.node
    ));
    let mut left = args.count;
    while left != Some(0) {
        match connection.hear(args.timeout).await? {
            Heard::Enough => break,
            Heard::Nothing => {
                let came = args.count.unwrap_or(1) - left.unwrap_or(1);
                let patience = milliseconds(args.timeout.unwrap_or_default());
                let words = format!("nothing came for {patience} ms, {came} messages before that");
                return match args.count {
                    Some(_) => Err(Failure::new(Exit::No, words)),
                    None => Ok(()),
                };
            }
            Heard::Event(event) if event.name() == "message" => {
                connection.output.tell(&event, || line(&event))?;
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

fn line(event: &Event) -> String {
    let from = event.text("from").unwrap_or("-");
    clean(&format!("{from} {}", event.body_json()))
}

/// Reads `500ms`, `5s`, `2m`, `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    crate::config::value::parse_duration(text, Duration::ZERO, DURATION_MAX)
}
