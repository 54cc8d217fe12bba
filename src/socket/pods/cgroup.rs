//! What `/proc/PID/cgroup` says of the pod that a process runs in.
//!
//! Each line is `number:controllers:path`; version 2 of control groups has one. The kubelet makes a group for each pod, and the
//! runtime one for each container in it, or beside it where the kubelet keeps no groups:
//!
//! ```text
//! 0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid, _ for ->.slice/cri-containerd-<id>.scope
//! 0::/../../kubepods-besteffort-pod<uid>.slice/crio-<id>.scope      # seen from a container
//! 4:memory:/kubepods/besteffort/pod<uid>/<id>
//! 1:name=systemd:/system.slice/containerd.service/kubepods-pod<uid>.slice:cri-containerd:<id>
//! ```
//!
//! What is further in was made by whoever was there before: only the outermost pod and its container count, so that what a
//! container makes inside its own group says nothing, even while nobody knows its pod. Where the machine is itself a container
//! (Kubernetes in Docker), what is around the pod of this node is around all of them and is passed over. A group below
//! `user.slice` says nothing either, because a user of the machine may call it as he likes.

/// Longest text that is looked at, in bytes: a dozen lines of a few hundred bytes are usual.
pub(super) const BYTES_MAX: usize = 16 * 1024;
/// Most marks that are taken from it.
const MARKS_MAX: usize = 32;
/// Digits of a uid, its dashes aside, and of the hash that stands for one.
const UID_DIGITS: usize = 32;
/// Where a uid has its dashes.
const DASHES: [usize; 4] = [8, 13, 18, 23];
/// Digits of a container's id.
const CONTAINER_DIGITS: usize = 64;

/// By what a pod may be known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// Its uid, with dashes, or the hash that stands for it.
    Pod(String),
    /// The id of one of its containers.
    Container(String),
}

/// What the control groups of a process say of its pod: the pod, its container, or both. Nothing for a process that is in no
/// pod. `around` is what is around every pod of the machine.
pub(super) fn marks(text: &str, around: &[Mark]) -> Vec<Mark> {
    let mut marks = Vec::new();
    for path in paths(text) {
        for mark in outermost(path, around) {
            if marks.len() < MARKS_MAX && !marks.contains(&mark) {
                marks.push(mark);
            }
        }
    }
    marks
}

/// What is around the pod that has these control groups, which are those of this node: nothing on a machine that is none.
pub(super) fn around(own: &str) -> Vec<Mark> {
    let all = |path: &str| path.split(['/', ':']).filter_map(mark).collect::<Vec<_>>();
    let of_pod = |mark: &Mark| matches!(mark, Mark::Pod(_));
    paths(own)
        .map(all)
        .find_map(|mut marks| {
            marks.truncate(marks.iter().rposition(of_pod)?);
            Some(marks)
        })
        .unwrap_or_default()
}

fn paths(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.splitn(3, ':').nth(2))
}

/// The first pod of a path and the container right in it, or the first container.
fn outermost(path: &str, mut around: &[Mark]) -> Vec<Mark> {
    let mut found = Vec::new();
    let mut pod_at = 0;
    for (at, part) in path.split('/').enumerate() {
        if found.is_empty() && part == "user.slice" || !found.is_empty() && at > pod_at + 1 {
            break;
        }
        for mark in part.split(':').filter_map(mark) {
            if let [first, rest @ ..] = around
                && found.is_empty()
            {
                around = if *first == mark { rest } else { &[] };
                if *first == mark {
                    continue;
                }
            }
            let is_pod = matches!(mark, Mark::Pod(_));
            if is_pod && !found.is_empty() {
                return found;
            }
            found.push(mark);
            if !is_pod {
                return found;
            }
            pod_at = at;
        }
    }
    found
}

/// One part of a path.
fn mark(part: &str) -> Option<Mark> {
    let name = part.strip_suffix(".slice").or_else(|| part.strip_suffix(".scope")).unwrap_or(part);
    let of_pod = name.strip_prefix("pod").or_else(|| name.rsplit_once("-pod").map(|(_, end)| end));
    if let Some(uid) = of_pod.and_then(uid) {
        return Some(Mark::Pod(uid));
    }
    let end = name.rsplit_once('-').map_or(name, |(_, end)| end);
    let is_id = end.len() == CONTAINER_DIGITS && end.bytes().all(is_digit);
    is_id.then(|| Mark::Container(end.to_owned()))
}

/// A uid as the API server writes it, of one that systemd may have changed.
fn uid(text: &str) -> Option<String> {
    if text.len() == UID_DIGITS {
        return text.bytes().all(is_digit).then(|| text.to_owned());
    }
    let is_good = text.len() == UID_DIGITS + DASHES.len()
        && text.bytes().enumerate().all(|(at, byte)| match byte {
            b'-' | b'_' => DASHES.contains(&at),
            byte => is_digit(byte) && !DASHES.contains(&at),
        });
    is_good.then(|| text.replace('_', "-"))
}

fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UID: &str = "6c1b8c0e-7d5f-4a0b-9c38-0f2d1e3a4b5c";
    const SYSTEMD: &str = "6c1b8c0e_7d5f_4a0b_9c38_0f2d1e3a4b5c";
    const ID: &str = "4f1c2d3e4f5a6b7c8d9e0f1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e";

    fn marks(text: &str) -> Vec<Mark> {
        super::marks(text, &[])
    }

    fn pod() -> Mark {
        Mark::Pod(UID.to_owned())
    }

    fn container() -> Mark {
        Mark::Container(ID.to_owned())
    }

    #[test]
    fn a_pod_is_known_in_every_shape_that_kubelets_and_runtimes_write() {
        let qos = ["", "-burstable", "-besteffort"];
        let systemd = qos.iter().flat_map(|qos| {
            let slice =
                format!("/kubepods.slice/kubepods{qos}.slice/kubepods{qos}-pod{SYSTEMD}.slice");
            [
                format!("0::{slice}/cri-containerd-{ID}.scope"),
                format!("0::{slice}/crio-{ID}.scope"),
                format!("0::{slice}/crio-{ID}.scope/container"),
                format!("0::{slice}/docker-{ID}.scope"),
                format!("12:pids:{slice}/docker-{ID}.scope"),
            ]
        });
        let cgroupfs = ["", "/burstable", "/besteffort"].into_iter().flat_map(|qos| {
            [
                format!("0::/kubepods{qos}/pod{UID}/{ID}"),
                format!("4:memory:/kubepods{qos}/pod{UID}/{ID}"),
                format!("11:cpu,cpuacct:/kubepods{qos}/pod{UID}/crio-{ID}"),
                format!("1:name=systemd:/docker/{}/kubepods{qos}/pod{UID}/{ID}", "x".repeat(12)),
            ]
        });
        let others = [
            // A runtime that is not told of systemd under a kubelet that is.
            format!(
                "0::/system.slice/containerd.service/kubepods-burstable-pod{SYSTEMD}.slice:cri-containerd:{ID}"
            ),
            // A kubelet with a root of its own, as kind has.
            format!(
                "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{SYSTEMD}.slice/cri-containerd-{ID}.scope"
            ),
            // As a container sees the groups of another.
            format!("0::/../../kubepods-besteffort-pod{SYSTEMD}.slice/cri-containerd-{ID}.scope"),
            format!("0::/../../pod{UID}/{ID}"),
        ];
        for line in systemd.chain(cgroupfs).chain(others) {
            assert_eq!(marks(&line), [pod(), container()], "{line}");
        }
        // What its init does for itself, before there is a container.
        assert_eq!(marks(&format!("0::/kubepods/pod{UID}")), [pod()]);
    }

    #[test]
    fn version_1_says_the_same_on_each_line_and_is_taken_once() {
        let path = format!("/pillion-test-1/kubepods/besteffort/pod{UID}/{ID}");
        let text = format!(
            "12:memory:{path}\n11:cpu,cpuacct:{path}\n10:pids:{path}\n1:name=systemd:/\n0::/\n"
        );
        assert_eq!(marks(&text), [pod(), container()]);
    }

    #[test]
    fn a_pod_of_a_file_is_known_by_its_hash_and_a_container_without_a_pod_by_its_id() {
        let hash = "0f".repeat(16);
        let text = format!(
            "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{hash}.slice/cri-containerd-{ID}.scope"
        );
        assert_eq!(marks(&text), [Mark::Pod(hash), container()]);
        assert_eq!(marks(&format!("0::/k8s.io/{ID}")), [container()]);
        assert_eq!(marks(&format!("0::/docker/{ID}")), [container()]);
    }

    #[test]
    fn what_is_further_in_says_nothing() {
        let (inner, other) = (UID.replace('6', "7"), ID.replace('4', "5"));
        for text in [
            format!("0::/kubepods/pod{UID}/{ID}/kubepods/pod{inner}/{other}"),
            format!("0::/kubepods/pod{UID}/{ID}/{other}"),
            format!(
                "4:memory:/kubepods/pod{UID}/{ID}\n1:name=systemd:/kubepods/pod{UID}/{ID}/pod{inner}"
            ),
            // A container that has a systemd of its own.
            format!("0::/kubepods/pod{UID}/{ID}/user.slice/user-0.slice/session-c1.scope"),
        ] {
            assert_eq!(marks(&text), [pod(), container()], "{text}");
        }
        assert_eq!(marks(&format!("0::/kubepods/pod{UID}/init/{other}")), [pod()]);
        assert_eq!(marks(&format!("0::/kubepods/pod{UID}/pod{inner}/{other}")), [pod()]);
        // A container of the machine's own, which is no pod.
        let docker = format!("0::/system.slice/docker-{ID}.scope/kubepods/pod{UID}/{other}");
        assert_eq!(marks(&docker), [container()]);
    }

    #[test]
    fn what_is_around_every_pod_of_the_machine_is_passed_over() {
        let (own, other) = (UID.replace('6', "7"), ID.replace('4', "5"));
        for outside in [format!("/docker/{other}"), format!("/kubepods/pod{UID}/{other}")] {
            let around = around(&format!("2:cpu:{outside}/kubepods/pod{own}/{ID}\n0::/\n"));
            let inside = |path: &str| super::marks(&format!("2:cpu:{outside}{path}"), &around);
            assert_eq!(
                inside(&format!("/kubepods/pod{own}/{ID}")),
                [Mark::Pod(own.clone()), container()]
            );
            let third = UID.replace('6', "8");
            let nested = format!("/kubepods/pod{third}/{ID}/pod{own}");
            assert_eq!(inside(&nested), [Mark::Pod(third), container()]);
            assert_eq!(inside("/system.slice/kubelet.service"), []);
            assert_eq!(inside(&format!("/user.slice/kubepods-pod{own}")), []);
        }
        for own in [
            "0::/\n",
            "",
            "0::/system.slice/pillion.service",
            &format!("0::/kubepods/pod{own}/{ID}"),
        ] {
            assert_eq!(around(own), [], "{own}");
        }
    }

    #[test]
    fn a_process_of_the_machine_is_in_no_pod_whatever_its_user_calls_his_groups() {
        for text in [
            "0::/",
            "0::/init.scope",
            "0::/system.slice/ssh.service",
            "0::/system.slice/kubelet.service",
            "0::/../../../system.slice/cron.service",
            "0::/user.slice/user-1000.slice/session-3.scope",
            &format!(
                "0::/user.slice/user-1000.slice/user@1000.service/kubepods.slice/kubepods-pod{SYSTEMD}.slice/a.scope"
            ),
            &format!(
                "0::/../../../../user.slice/user-1000.slice/user@1000.service/kubepods-pod{SYSTEMD}.slice"
            ),
            "",
            "no line at all",
            "0::",
            "0:/kubepods/pod",
            "0::/kubepods/pod/",
            "0::/kubepods/pod6c1b8c0e-7d5f-4a0b-9c38",
            "0::/kubepods/pod6c1b8c0e-7d5f-4a0b-9c38-0f2d1e3a4b5g",
            "0::/kubepods/pod6c1b8c0e7-d5f-4a0b-9c38-0f2d1e3a4b5c",
            &format!("0::/kubepods/pod{UID}1"),
            &format!("0::/k8s.io/{ID}0"),
        ] {
            assert_eq!(marks(text), [], "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_or_find_more_than_it_may(
            text in "(([0-9]{1,2}:[a-z,=]{0,12}:)?(/|\\.\\.|pod|-pod|kubepods|\\.slice|:|[0-9a-f_-]{0,70}|\\PC){0,30}\n){0,40}"
        ) {
            prop_assert!(marks(&text).len() <= MARKS_MAX);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let _ = marks(&String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn a_uid_is_found_in_whatever_stands_around_it(
            before in "[a-z./]{0,40}", after in "[a-z./]{0,40}", bits in any::<u128>()
        ) {
            let digits = format!("{bits:032x}");
            let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
            let text = format!("0::/{before}/kubepods-pod{}.slice/{after}", parts.join("_"));
            prop_assume!(!text.contains("user.slice"));
            prop_assert_eq!(marks(&text), [Mark::Pod(parts.join("-"))]);
        }
    }
}
