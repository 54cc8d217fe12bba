//! The first words both ways, and whether they are good.
//!
//! The dialler speaks first, so that the accepter can say whether it is connected to the dialler's name already.

use std::sync::PoisonError;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};

use super::problem::Problem;
use super::{Context, Ends, Met, refusal, scope};
use crate::frame::{OwnedFrame, ReadError, read_frame, write_frame};
use crate::tls::Tls;
use crate::wire::id::{Incarnation, Node};
use crate::wire::message::{
    FrameError, HELLO_BYTES_MAX, Hello, Kind, PROTOCOL_MAX, PROTOCOL_MIN, Refusal, cbor_frame,
};

/// Says hello and reads the other side's.
pub(super) async fn exchange<S>(
    context: &Context,
    stream: &mut S,
    certificates: &[CertificateDer<'_>],
    ends: Ends,
) -> Result<Met, Problem>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if ends.dialled {
        say(context, stream, None, ends).await?;
    }
    let hello = read(context, stream).await?;
    let now_ms = clock_ms();
    let names = Names::read(certificates)?;
    let checked = check(context, &hello, &names);
    let node = match checked {
        Ok(node) => node,
        Err(Problem::SameName(node)) if node.incarnation < context.me.incarnation => {
            // The other one is older and keeps the name; it says so once it knows us.
            if !ends.dialled {
                say(context, stream, None, ends).await?;
            }
            return Err(match read(context, stream).await {
                Err(problem @ Problem::Refused(_)) => problem,
                _ => Problem::Refused(taken(&node)),
            });
        }
        Err(problem) => return Err(problem),
    };
    if !ends.dialled {
        say(context, stream, context.held(&node.name), ends).await?;
    }
    Ok(Met {
        node,
        labels: hello.labels,
        hidden: hello.hidden,
        places: scope::heard(&hello.addresses, ends.remote),
        remote: ends.remote,
        local: ends.local,
        known: hello.known.map(Incarnation),
        skew_ms: hello
            .clock_ms
            .map(|theirs| theirs.cast_signed().saturating_sub(now_ms.cast_signed())),
    })
}

/// Milliseconds since 1970.
fn clock_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

fn taken(node: &Node) -> Refusal {
    refusal(
        "name_taken",
        format!(
            "the name {} belongs to a node that started earlier and is alive: start this one with another --name",
            node.name
        ),
    )
}

async fn say<S>(
    context: &Context,
    stream: &mut S,
    known: Option<Incarnation>,
    ends: Ends,
) -> Result<(), Problem>
where
    S: AsyncWrite + Unpin,
{
    let hello = Hello {
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
        // Nothing yet that is not in the protocol itself.
        features: Vec::new(),
        mesh: context.mesh.clone(),
        node: context.me.name.to_string(),
        incarnation: context.me.incarnation.0,
        addresses: scope::own(
            &context.advertised,
            &context.listens,
            ends.remote,
            &context.interfaces.now(),
        ),
        labels: context.labels.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        hidden: context.hidden,
        known: known.map(|incarnation| incarnation.0),
        clock_ms: Some(clock_ms()),
    };
    write_frame(stream, &cbor_frame(Kind::Hello, 0, &hello))
        .await
        .map_err(|error| Problem::from_io(&error, &context.mesh))
}

async fn read<S>(context: &Context, stream: &mut S) -> Result<Hello, Problem>
where
    S: AsyncRead + Unpin,
{
    let mut frame = expect_frame(read_frame(stream, HELLO_BYTES_MAX).await, &context.mesh)?;
    while Kind::is_skipped(frame.kind) {
        frame = expect_frame(read_frame(stream, HELLO_BYTES_MAX).await, &context.mesh)?;
    }
    if frame.kind != Kind::Hello as u8 {
        return Err(FrameError::Malformed("hello").into());
    }
    Ok(frame.as_frame().cbor("hello")?)
}

/// A frame that is no refusal.
pub(super) fn expect_frame(
    frame: Result<Option<OwnedFrame>, ReadError>,
    mesh: &str,
) -> Result<OwnedFrame, Problem> {
    let frame = match frame {
        Ok(Some(frame)) => frame,
        Ok(None) => return Err(Problem::Closed),
        Err(ReadError::Io(error)) => return Err(Problem::from_io(&error, mesh)),
        Err(ReadError::Frame(error)) => return Err(error.into()),
    };
    if frame.kind == Kind::Refuse as u8 {
        let refusal: Refusal = frame.as_frame().cbor("refuse")?;
        return Err(if refusal.code == "self" {
            Problem::Itself
        } else {
            Problem::Refused(refusal)
        });
    }
    Ok(frame)
}

/// What the other side's certificate says of it.
#[derive(Debug)]
struct Names {
    mesh: String,
    host: String,
}

impl Names {
    fn read(certificates: &[CertificateDer<'_>]) -> Result<Self, Problem> {
        match Tls::peer_identity(certificates) {
            Ok(identity) => Ok(Self { mesh: identity.mesh, host: identity.host }),
            Err(error) => Err(Problem::Refusing(refusal(
                "certificate",
                format!("this certificate names no node: {error}"),
            ))),
        }
    }
}

/// Judges a hello: protocol, mesh, certificate, then who it is.
fn check(context: &Context, hello: &Hello, names: &Names) -> Result<Node, Problem> {
    judge(&context.mesh, &context.me, hello, names)
}

fn judge(mesh: &str, me: &Node, hello: &Hello, names: &Names) -> Result<Node, Problem> {
    let refuse = |code, message| Err(Problem::Refusing(refusal(code, message)));
    if hello.protocol_min > PROTOCOL_MAX || hello.protocol_max < PROTOCOL_MIN {
        return refuse(
            "protocol",
            format!(
                "protocols {PROTOCOL_MIN} to {PROTOCOL_MAX} are spoken here, {} to {} there: update the older of the two",
                hello.protocol_min, hello.protocol_max
            ),
        );
    }
    if hello.mesh != mesh {
        let theirs = super::problem::words(&hello.mesh);
        return refuse(
            "mesh",
            format!(
                "this is the mesh `{mesh}`, that `{theirs}`: start both with the same --mesh to join them"
            ),
        );
    }
    let Ok(name) = hello.node.parse::<crate::wire::id::NodeName>() else {
        return refuse("malformed", "the hello names no node".to_owned());
    };
    if names.mesh != hello.mesh || names.host != name.host() {
        return refuse(
            "certificate",
            format!(
                "the certificate is for host `{}` of mesh `{}`, the hello says {name} of `{}`: give each host its own certificate",
                super::problem::words(&names.host),
                super::problem::words(&names.mesh),
                super::problem::words(&hello.mesh)
            ),
        );
    }
    let node = Node { name, incarnation: Incarnation(hello.incarnation) };
    if node == *me {
        return Err(Problem::Itself);
    }
    if node.name == me.name {
        return Err(Problem::SameName(node));
    }
    Ok(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> Node {
        Node { name: "a@hal".parse().expect("a name"), incarnation: Incarnation(5) }
    }

    fn hello(node: &str) -> Hello {
        Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            features: Vec::new(),
            mesh: "default".to_owned(),
            node: node.to_owned(),
            incarnation: 7,
            addresses: Vec::new(),
            labels: std::collections::BTreeMap::new(),
            hidden: false,
            known: None,
            clock_ms: None,
        }
    }

    fn code(hello: &Hello) -> String {
        let names = Names { mesh: "default".to_owned(), host: "hal".to_owned() };
        match judge("default", &me(), hello, &names) {
            Ok(node) => format!("ok {}", node.name),
            Err(Problem::Refusing(refusal)) => refusal.code,
            Err(Problem::Itself) => "self".to_owned(),
            Err(Problem::SameName(_)) => "same name".to_owned(),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn each_thing_that_must_agree_has_its_own_refusal() {
        assert_eq!(code(&hello("b@hal")), "ok b@hal");
        assert_eq!(code(&Hello { protocol_min: PROTOCOL_MAX + 1, ..hello("b@hal") }), "protocol");
        assert_eq!(code(&Hello { protocol_max: PROTOCOL_MIN - 1, ..hello("b@hal") }), "protocol");
        assert_eq!(code(&Hello { mesh: "other".to_owned(), ..hello("b@hal") }), "mesh");
        assert_eq!(code(&hello("b@elsewhere")), "certificate");
        assert_eq!(code(&hello("nonsense")), "malformed");
        assert_eq!(code(&hello("a@hal")), "same name");
        assert_eq!(code(&Hello { incarnation: 5, ..hello("a@hal") }), "self");
    }

    #[test]
    fn a_newer_protocol_that_reaches_down_to_ours_is_good() {
        assert_eq!(code(&Hello { protocol_max: u16::MAX, ..hello("b@hal") }), "ok b@hal");
    }
}
