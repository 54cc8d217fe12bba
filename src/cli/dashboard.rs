//! `pillion dashboard`: a page that shows the node, live, for whoever may open its socket.
//!
//! The page and what it asks for (`/debug/...`, JSON) are served by this command, on loopback and a port that the system
//! picks; the node knows nothing of it. Any program and any web page on this machine can reach such a port, so what
//! is asked for needs the token that only the command's own output names, and the `Host` must be the one that was bound:
//! a name that somebody makes point here is refused.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use clap::Args;
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use super::connection::Connection;
use super::exit::{Exit, Failure};
use super::{Globals, Output};
use crate::admin::serve;
use crate::client::Op;
use crate::shutdown;

const PAGE: &str = include_str!("dashboard/page.html");

/// Nothing but what stands in the page runs or is loaded, and nothing frames it.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What may be looked at, and the command whose answer it is.
const LOOKS: [(&str, &str); 9] = [
    ("node", "doctor"),
    ("nodes", "nodes"),
    ("peers", "peers"),
    ("processes", "processes"),
    ("names", "registered"),
    ("groups", "groups"),
    ("modules", "modules"),
    ("topics", "topics"),
    ("tree", "tree"),
];

const EXAMPLES: &str = "\
Prints an address to open in a browser on this machine, and serves it until ctrl-c. The token
in the address is what lets in; it is good for this run only. The same as JSON is below
/debug: node, nodes, peers, processes, names, groups, modules, topics, tree, explain/NODE.

Examples:
  pillion dashboard
  pillion dashboard --json | jq -r .url
  curl -H \"Authorization: Bearer $TOKEN\" http://127.0.0.1:$PORT/debug/peers";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct DashboardArgs {
    /// The port of loopback to serve it on [default: one that is free]
    #[arg(long, value_name = "PORT", default_value_t = 0, hide_default_value = true)]
    port: u16,
}

struct Dashboard {
    globals: Globals,
    /// The session with the node, made again when it was lost.
    connection: Mutex<Option<Arc<Connection>>>,
    address: SocketAddr,
    token: String,
}

pub(super) async fn dashboard(globals: &Globals, args: &DashboardArgs) -> Result<(), Failure> {
    let connection = Connection::open_operator(globals, "dashboard").await?;
    let node = connection.node.clone();
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, args.port)).await;
    let listener = bound.map_err(|error| {
        let words = format!("cannot listen on 127.0.0.1:{}: {error}", args.port);
        Failure::new(Exit::CannotCreate, words)
    })?;
    let failed = |error: String| Failure::new(Exit::Internal, error);
    let address = listener.local_addr().map_err(|error| failed(error.to_string()))?;
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| failed(error.to_string()))?;
    let token = crate::tls::cookie::hex(&random);
    // Behind `#` it is sent to nobody by the browser: no log, no referrer.
    let url = format!("http://{address}/#{token}");
    let output = Output { json: globals.json };
    output.say(&if globals.json {
        serde_json::json!({"url": url, "token": token, "node": node}).to_string()
    } else {
        format!("{node}: open {url}\nctrl-c ends it")
    })?;
    let dashboard = Arc::new(Dashboard {
        globals: globals.clone(),
        connection: Mutex::new(Some(Arc::new(connection))),
        address,
        token,
    });
    let (_running, shutdown) = shutdown::channel();
    serve::run(listener, routes(dashboard), shutdown).await;
    Ok(())
}

fn routes(dashboard: Arc<Dashboard>) -> Router {
    let guarded = Router::new()
        .route("/debug/explain/{node}", get(explain))
        .route("/debug/{what}", get(look))
        .layer(middleware::from_fn_with_state(Arc::clone(&dashboard), needs_token));
    guarded
        .route("/", get(page))
        .layer(middleware::from_fn_with_state(Arc::clone(&dashboard), needs_host))
        .with_state(dashboard)
}

async fn page() -> Response {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], PAGE).into_response()
}

/// Whether the browser was told to come here by the address that was printed.
fn is_host(host: &str, address: SocketAddr) -> bool {
    host == address.to_string() || host == format!("localhost:{}", address.port())
}

async fn needs_host(
    State(dashboard): State<Arc<Dashboard>>,
    request: Request,
    next: Next,
) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let mut response = if host.is_some_and(|host| is_host(host, dashboard.address)) {
        next.run(request).await
    } else {
        let said = format!("this is http://{} and no other name\n", dashboard.address);
        (StatusCode::FORBIDDEN, said).into_response()
    };
    let always: [(HeaderName, &str); 4] = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in always {
        response.headers_mut().insert(name, axum::http::HeaderValue::from_static(value));
    }
    response
}

/// Compares all of it, so that the time tells nothing of how much is right.
fn is_same(given: &str, token: &str) -> bool {
    let differ = given.bytes().zip(token.bytes()).fold(0, |differ, (a, b)| differ | (a ^ b));
    given.len() == token.len() && differ == 0
}

fn is_let_in(headers: &HeaderMap, token: &str) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|given| given.to_str().ok());
    given.and_then(|given| given.strip_prefix("Bearer ")).is_some_and(|given| is_same(given, token))
}

async fn needs_token(
    State(dashboard): State<Arc<Dashboard>>,
    request: Request,
    next: Next,
) -> Response {
    if is_let_in(request.headers(), &dashboard.token) {
        return next.run(request).await;
    }
    let said = "the token is missing or wrong: take the address that `pillion dashboard` printed\n";
    (StatusCode::UNAUTHORIZED, said).into_response()
}

async fn look(State(dashboard): State<Arc<Dashboard>>, Path(what): Path<String>) -> Response {
    let Some((_, op)) = LOOKS.iter().find(|(look, _)| *look == what) else {
        let looks: Vec<&str> = LOOKS.iter().map(|(look, _)| *look).collect();
        let said = format!("there are {} and explain/NODE\n", looks.join(", "));
        return (StatusCode::NOT_FOUND, said).into_response();
    };
    dashboard.answer(Op::new(op)).await
}

async fn explain(State(dashboard): State<Arc<Dashboard>>, Path(node): Path<String>) -> Response {
    dashboard.answer(Op::new("explain").text("node", &node)).await
}

impl Dashboard {
    /// The session with the node.
    async fn connection(&self) -> Result<Arc<Connection>, Failure> {
        let mut connection = self.connection.lock().await;
        if let Some(there) = connection.as_ref()
            && there.client.ended().is_none()
        {
            return Ok(Arc::clone(there));
        }
        let new = Arc::new(Connection::open_operator(&self.globals, "dashboard").await?);
        *connection = Some(Arc::clone(&new));
        Ok(new)
    }

    /// What the node answers, as JSON.
    async fn answer(&self, op: Op) -> Response {
        let answered = match self.connection().await {
            Ok(connection) => connection.request(op).await,
            Err(failure) => Err(failure),
        };
        match answered {
            Ok(answer) => {
                let json = [(header::CONTENT_TYPE, "application/json")];
                (json, answer.to_json()).into_response()
            }
            Err(failure) => (StatusCode::BAD_GATEWAY, failure.words).into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_that_was_printed_lets_in() {
        let said = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, text.parse().expect("a value"));
            is_let_in(&headers, "abc")
        };
        assert!(said("Bearer abc"));
        for wrong in ["Bearer abd", "Bearer ab", "Bearer abcd", "Bearer ", "abc", "Basic abc"] {
            assert!(!said(wrong), "{wrong}");
        }
        assert!(!is_let_in(&HeaderMap::new(), "abc"));
    }

    #[test]
    fn a_name_that_was_made_to_point_here_is_not_ours() {
        let address: SocketAddr = "127.0.0.1:4500".parse().expect("an address");
        assert!(is_host("127.0.0.1:4500", address) && is_host("localhost:4500", address));
        for wrong in ["evil.example:4500", "127.0.0.1", "127.0.0.1:4501", "localhost", ""] {
            assert!(!is_host(wrong, address), "{wrong}");
        }
    }

    #[test]
    fn the_page_loads_nothing_from_anywhere() {
        for outside in ["http://", "https://", "src=", "@import", "url(", "innerHTML"] {
            assert!(!PAGE.contains(outside), "{outside}");
        }
    }
}
