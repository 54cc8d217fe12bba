//! Nodes that an API server lists: `EndpointSlices` that are made for one measurement and deleted after it.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pillion_strategies::interfaces;
use serde_json::json;

use super::process::Trouble;

/// Slices on an API server. They are deleted when this is dropped.
#[derive(Debug)]
pub(super) struct Slices {
    kubeconfig: PathBuf,
    service: String,
}

impl Slices {
    /// Makes a slice for each of these ports at `ip`, with `kubectl`, in the namespace of the kubeconfig's context.
    ///
    /// # Errors
    /// When `kubectl` is not there, or the API server does not want them; then none is left.
    pub(super) fn make(kubeconfig: &Path, ip: IpAddr, ports: &[u16]) -> Result<Self, Trouble> {
        let service = format!("pillion-bench-{}-{}", std::process::id(), ports[0]);
        let slices = Self { kubeconfig: kubeconfig.to_owned(), service };
        let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        let items: Vec<_> = ports
            .iter()
            .map(|port| {
                let labels = json!({"kubernetes.io/service-name": slices.service});
                json!({
                    "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
                    "metadata": {"name": format!("{}-{port}", slices.service), "labels": labels},
                    "endpoints": [{"addresses": [ip], "conditions": {"ready": true, "serving": true}}],
                    "ports": [{"name": "mesh", "port": port, "protocol": "TCP"}],
                })
            })
            .collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
        slices.kubectl(&["create", "-f", "-"], &list)?;
        Ok(slices)
    }

    /// How a node finds them.
    pub(super) fn strategy(&self) -> String {
        let path = self.kubeconfig.display().to_string().replace('%', "%25").replace('&', "%26");
        format!("kubernetes://?kubeconfig={path}&service={}", self.service)
    }

    fn kubectl(&self, arguments: &[&str], input: &str) -> Result<(), Trouble> {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(Trouble::io("starting kubectl"))?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that ended early says why.
            let _ = stdin.write_all(input.as_bytes());
        }
        let said = child.wait_with_output().map_err(Trouble::io("waiting for kubectl"))?;
        if said.status.success() {
            return Ok(());
        }
        let why = String::from_utf8_lossy(&said.stderr);
        Err(Trouble::Unexpected(format!("kubectl {}: {}", arguments[0], why.trim())))
    }
}

impl Drop for Slices {
    fn drop(&mut self) {
        let of = format!("kubernetes.io/service-name={}", self.service);
        let arguments = ["delete", "endpointslices", "--wait=false", "--selector", &of];
        if let Err(trouble) = self.kubectl(&arguments, "") {
            eprintln!("the EndpointSlices of {} are still there: {trouble}", self.service);
        }
    }
}

/// An address of this machine that a slice may hold.
///
/// # Errors
/// When it has only loopback.
pub(super) fn address() -> Result<IpAddr, Trouble> {
    let told = interfaces::tellable(&[SocketAddr::from(([0, 0, 0, 0], 1))])
        .map_err(Trouble::io("listing the addresses of this machine"))?;
    let none = || Trouble::Unexpected("this machine has no address but loopback".to_owned());
    told.first().map(SocketAddr::ip).ok_or_else(none)
}
