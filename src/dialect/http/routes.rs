//! Which paths there are: the one list of them. `docs/openapi.json` says the same for others, and a test compares.

use super::Refusal;
use super::head::Head;

/// How a parameter of the query is read, and what it becomes as a member of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    Text,
    /// A whole number.
    Number,
    /// True when it is there, unless it says `false`.
    Flag,
    /// A text that may be there several times, a list.
    Texts,
    /// Something in JSON.
    Json,
}

/// A parameter of the query. It is the member of the command that has the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    /// Its name.
    pub name: &'static str,
    /// How it is read.
    pub kind: Kind,
}

/// What is answered when the command was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gives {
    /// The members of the answer as one JSON object, or 204 where it has none.
    Members,
    /// The body of the reply.
    Body,
    /// That it was done: 204.
    Nothing,
    /// Events as they come.
    Events,
}

/// One method of one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// `GET`, `POST`, `PUT` or `DELETE`.
    pub method: &'static str,
    /// The path; a segment in braces is a member of the command, the last one may have several segments.
    pub path: &'static str,
    /// The command.
    pub op: &'static str,
    /// What the query may have.
    pub params: &'static [Param],
    /// The body of the request is that of the command.
    pub has_body: bool,
    /// What the answer is.
    pub gives: Gives,
}

const fn text(name: &'static str) -> Param {
    Param { name, kind: Kind::Text }
}

const fn number(name: &'static str) -> Param {
    Param { name, kind: Kind::Number }
}

const fn flag(name: &'static str) -> Param {
    Param { name, kind: Kind::Flag }
}

const fn texts(name: &'static str) -> Param {
    Param { name, kind: Kind::Texts }
}

const fn get(path: &'static str, op: &'static str, params: &'static [Param]) -> Route {
    Route { method: "GET", path, op, params, has_body: false, gives: Gives::Members }
}

const fn post(path: &'static str, op: &'static str, params: &'static [Param]) -> Route {
    Route { method: "POST", path, op, params, has_body: true, gives: Gives::Members }
}

const fn without_body(route: Route) -> Route {
    Route { has_body: false, ..route }
}

const fn giving(gives: Gives, route: Route) -> Route {
    Route { gives, ..route }
}

const fn of_method(method: &'static str, has_body: bool, route: Route) -> Route {
    Route { method, has_body, ..route }
}

const fn json(name: &'static str) -> Param {
    Param { name, kind: Kind::Json }
}

/// What a stream of events may say of its process.
const NAME: Param = text("name");
const ENTRIES: Param = number("entries");
const BYTES: Param = number("bytes");
const POLICY: Param = text("policy");

/// All of them, in the order of the manual.
pub const ROUTES: &[Route] = &[
    get("/v1/nodes", "nodes", &[texts("state")]),
    get("/v1/ping", "ping", &[text("node"), number("timeout_ms")]),
    without_body(post("/v1/connect", "connect", &[text("to")])),
    without_body(post("/v1/disconnect", "disconnect", &[text("node")])),
    get("/v1/peers", "peers", &[]),
    get("/v1/explain", "explain", &[text("node")]),
    get("/v1/doctor", "doctor", &[]),
    get("/v1/ready", "ready", &[number("wait_ms")]),
    without_body(post("/v1/drain", "drain", &[number("wait_ms")])),
    giving(
        Gives::Events,
        get(
            "/v1/monitor_nodes",
            "monitor_nodes",
            &[text("node_type"), NAME, ENTRIES, BYTES, POLICY],
        ),
    ),
    get("/v1/processes", "processes", &[text("node")]),
    get("/v1/info", "info", &[text("to"), texts("keys")]),
    get("/v1/alive", "alive", &[text("to")]),
    without_body(post("/v1/kill", "kill", &[text("to"), text("reason")])),
    get("/v1/tree", "tree", &[]),
    get("/v1/registered", "registered", &[text("scope"), text("prefix")]),
    get("/v1/whereis", "whereis", &[text("name"), text("node"), text("scope")]),
    get("/v1/groups", "groups", &[text("prefix")]),
    get("/v1/members", "members", &[text("group"), flag("local")]),
    get("/v1/modules", "modules", &[]),
    post("/v1/send", "send", &[text("to"), text("mode"), flag("checked")]),
    post("/v1/cast", "cast", &[text("to"), text("mode"), flag("checked")]),
    post("/v1/abcast", "abcast", &[text("name"), texts("nodes")]),
    post("/v1/sbcast", "sbcast", &[text("name"), texts("nodes"), number("timeout_ms")]),
    giving(Gives::Body, post("/v1/call", "call", &[text("to"), number("timeout_ms")])),
    post("/v1/multi_call", "multi_call", &[text("name"), texts("nodes"), number("timeout_ms")]),
    giving(
        Gives::Body,
        post(
            "/v1/rpc",
            "rpc",
            &[text("node"), texts("nodes"), text("module"), text("function"), number("timeout_ms")],
        ),
    ),
    post(
        "/v1/rpc_cast",
        "rpc_cast",
        &[text("node"), texts("nodes"), text("module"), text("function")],
    ),
    post(
        "/v1/publish",
        "publish",
        &[
            text("topic"),
            text("scope"),
            text("node"),
            text("exclude"),
            text("mode"),
            flag("report"),
            flag("retain"),
        ],
    ),
    giving(
        Gives::Events,
        get(
            "/v1/subscribe",
            "subscribe",
            &[
                texts("topic"),
                text("group"),
                json("metadata"),
                flag("sync"),
                flag("dedupe"),
                NAME,
                ENTRIES,
                BYTES,
                POLICY,
            ],
        ),
    ),
    get("/v1/topics", "topics", &[]),
    get("/v1/subscribers", "subscribers", &[text("topic"), flag("list")]),
    get("/v1/presence", "presence", &[text("topic"), text("key"), text("prefix")]),
    giving(
        Gives::Events,
        get(
            "/v1/monitor_presence",
            "monitor_presence",
            &[text("topic"), NAME, ENTRIES, BYTES, POLICY],
        ),
    ),
    giving(Gives::Body, get("/v1/kv/{to}", "call", &[text("prefix"), number("timeout_ms")])),
    giving(Gives::Body, get("/v1/kv/{to}/{key}", "call", &[number("timeout_ms")])),
    giving(
        Gives::Nothing,
        of_method(
            "PUT",
            true,
            get("/v1/kv/{to}/{key}", "call", &[number("ttl_ms"), number("timeout_ms")]),
        ),
    ),
    giving(
        Gives::Nothing,
        of_method("DELETE", false, get("/v1/kv/{to}/{key}", "call", &[number("timeout_ms")])),
    ),
];

/// A request of which is known what it wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which method of which path.
    pub route: &'static Route,
    /// The parameters that were written, in their order, those of the path first.
    pub params: Vec<(&'static str, String)>,
}

impl Found {
    /// The first parameter of this name.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(found, _)| *found == name).map(|(_, value)| value.as_str())
    }

    /// All parameters of this name.
    pub fn params<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.params.iter().filter(move |(found, _)| *found == name).map(|(_, value)| value.as_str())
    }
}

/// Methods that exist elsewhere: here their path is right and they are not.
const METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"];

/// The route of a request, and its parameters.
///
/// # Errors
/// [`Refusal`] with what is there instead.
pub fn find(head: &Head) -> Result<Found, Refusal> {
    let wanted = if head.method == "HEAD" { "GET" } else { head.method.as_str() };
    let mut of_path = false;
    for route in ROUTES {
        let Some(params) = params_of_path(route.path, &head.path)? else { continue };
        of_path = true;
        if route.method == wanted {
            let mut found = Found { route, params };
            read_query(&mut found, &head.query)?;
            return Ok(found);
        }
    }
    if !METHODS.contains(&head.method.as_str()) {
        let text = "this is no method of HTTP; here are GET, HEAD, POST, PUT, DELETE and OPTIONS";
        return Err(Refusal::new(501, "unsupported", text));
    }
    if of_path {
        let allow = allowed(&head.path);
        let text = format!("{} is not for this path; it has {allow}", head.method);
        return Err(Refusal { allow: Some(allow), ..Refusal::new(405, "badop", text) });
    }
    Err(not_found(&head.path))
}

/// What is answered where there is no such path.
#[must_use]
pub fn not_found(path: &str) -> Refusal {
    let shown: String = path.chars().take(100).collect();
    let paths = ROUTES.iter().map(|route| route.path);
    let text = match pillion_strategies::nearest(&shown, paths) {
        Some(path) => format!("there is no path {shown}; did you mean {path}?"),
        None => {
            format!("there is no path {shown}; they are like /v1/nodes, one for each command")
        }
    };
    Refusal::new(404, "not_found", text)
}

/// The methods that a path has, for the field `Allow`; empty when there is no such path.
#[must_use]
pub fn allowed(path: &str) -> String {
    let mut methods: Vec<&str> = Vec::new();
    for route in ROUTES {
        if path == "*" || matches!(params_of_path(route.path, path), Ok(Some(_))) {
            for method in [route.method, if route.method == "GET" { "HEAD" } else { "OPTIONS" }] {
                if !methods.contains(&method) {
                    methods.push(method);
                }
            }
        }
    }
    if !methods.is_empty() && !methods.contains(&"OPTIONS") {
        methods.push("OPTIONS");
    }
    methods.join(", ")
}

/// What stands in the places of the braces; `None` when it is another path.
fn params_of_path(
    pattern: &'static str,
    path: &str,
) -> Result<Option<Vec<(&'static str, String)>>, Refusal> {
    let mut params = Vec::new();
    let (mut pattern, mut path) = (pattern, path);
    while let Some(open) = pattern.find('{') {
        let (before, behind) = pattern.split_at(open);
        let Some(rest) = path.strip_prefix(before) else { return Ok(None) };
        let Some((name, behind)) = behind[1..].split_once('}') else { return Ok(None) };
        // The last one takes all there is.
        let end = if behind.is_empty() && !params.is_empty() { None } else { rest.find('/') };
        let (value, rest) = rest.split_at(end.unwrap_or(rest.len()));
        if value.is_empty() {
            return Ok(None);
        }
        params.push((name, percent_decoded(value, false)?));
        (pattern, path) = (behind, rest);
    }
    Ok((pattern == path).then_some(params))
}

fn read_query(found: &mut Found, query: &str) -> Result<(), Refusal> {
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = percent_decoded(name, true)?;
        let Some(param) = found.route.params.iter().find(|param| param.name == name) else {
            return Err(unknown(found.route, &name));
        };
        if param.kind != Kind::Texts && found.param(param.name).is_some() {
            return Err(Refusal::badarg(format!("`{name}` is there twice")));
        }
        found.params.push((param.name, percent_decoded(value, true)?));
    }
    Ok(())
}

fn unknown(route: &Route, name: &str) -> Refusal {
    let shown: String = name.chars().take(40).collect();
    let names = route.params.iter().map(|param| param.name);
    let message = match pillion_strategies::nearest(&shown, names) {
        Some(known) => {
            format!("`{shown}` is no parameter of {}; did you mean `{known}`?", route.path)
        }
        None if route.params.is_empty() => format!("{} has no parameters", route.path),
        None => {
            let names: Vec<&str> = route.params.iter().map(|param| param.name).collect();
            let names = names.join(", ");
            format!("`{shown}` is no parameter of {}; it has {names}", route.path)
        }
    };
    Refusal::badarg(message)
}

/// A text in which `%41` stands for `A`, and where forms are read `+` for a blank.
fn percent_decoded(text: &str, is_form: bool) -> Result<String, Refusal> {
    let wrong =
        || Refusal::badarg("a `%` in a path is followed by two hex digits, and all of it is UTF-8");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        match first {
            b'%' => {
                let digit = |at: usize| {
                    let digit = char::from(*behind.get(at)?).to_digit(16)?;
                    u8::try_from(digit).ok()
                };
                let (Some(high), Some(low)) = (digit(0), digit(1)) else { return Err(wrong()) };
                bytes.push(high << 4 | low);
                rest = &behind[2..];
            }
            b'+' if is_form => bytes.push(b' '),
            _ => bytes.push(*first),
        }
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}
