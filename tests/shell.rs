//! `pillion shell` as a script: real daemons, real sockets, and the transcript that comes out.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

const PILLION: &str = env!("CARGO_BIN_EXE_pillion");

/// A daemon in a directory of its own.
struct Daemon {
    child: Child,
    directory: PathBuf,
}

impl Daemon {
    fn start(test: &str) -> Self {
        let directory = PathBuf::from(format!("/tmp/pl-{}-{test}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let mut child = Command::new(PILLION)
            .args(["up", "--name", "stock@hal", "--strategy", "none"])
            .args(["--listen", "127.0.0.1:0", "--grace", "5s", "--dir"])
            .arg(directory.join("d"))
            .env("HOME", &directory)
            .env_remove("PILLION_SOCKET")
            .stderr(Stdio::piped())
            .spawn()
            .expect("a daemon");
        let mut log = BufReader::new(child.stderr.take().expect("its log"));
        let mut line = String::new();
        while !line.contains("is up") {
            line.clear();
            assert_ne!(log.read_line(&mut line).expect("a line"), 0, "the daemon has ended");
        }
        // Read on, so that it never waits for us.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { child, directory }
    }

    fn shell(&self, arguments: &[&str]) -> Child {
        Command::new(PILLION)
            .arg("shell")
            .args(arguments)
            .env("HOME", &self.directory)
            .env("PILLION_SOCKET", self.directory.join("d/default/stock.sock"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a shell")
    }

    fn script(&self, arguments: &[&str], script: &str) -> Output {
        let mut shell = self.shell(arguments);
        let mut stdin = shell.stdin.take().expect("its input");
        // A script that ends early does not read the rest.
        let _ = stdin.write_all(script.as_bytes());
        drop(stdin);
        shell.wait_with_output().expect("it ends")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Output with every incarnation replaced: nothing else differs from run to run.
fn told(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let mut told = String::new();
    let mut rest = &*text;
    while let Some(at) = rest.find("stock@hal.") {
        let (before, behind) = rest.split_at(at + "stock@hal.".len());
        told.push_str(before);
        told.push('I');
        rest = &behind[16..];
    }
    told + rest
}

#[test]
fn a_script_is_answered_line_by_line_without_banner_or_prompt() {
    let daemon = Daemon::start("script");
    let output = daemon.script(
        &[],
        "# a comment\n\
         self\n\
         register inbox\n\
         send inbox {\"sku\": 7}\n\
         send inbox hello there\n\
         info messages message_queue_len\n\
         flush\n\
         flush\n\
         receive 1 0\n\
         ping stock\n\
         whereis inbox\n\
         whereis nobody\n\
         names\n\
         quit\n\
         self\n",
    );
    assert_eq!(
        told(&output.stdout),
        "<stock@hal.I.100>\n\
         ok\n\
         ok\n\
         ok\n\
         message_queue_len  2\n\
         messages           message from=<stock@hal.I.100> {\"sku\":7}\n                   \
         message from=<stock@hal.I.100> \"hello there\"\n\
         message from=<stock@hal.I.100> {\"sku\":7}\n\
         message from=<stock@hal.I.100> \"hello there\"\n\
         ok\n\
         ok\n\
         nothing\n\
         pong\n\
         <stock@hal.I.100>\n\
         none\n\
         NAME   PID\n\
         inbox  <stock@hal.I.100>\n"
    );
    assert_eq!(told(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn monitors_timers_and_exits_arrive_in_the_mailbox() {
    let daemon = Daemon::start("watch");
    let output = daemon.script(
        &[],
        "monitor nobody\n\
         receive\n\
         register late\n\
         send_after 1 late \"x\"\n\
         receive 1 5s\n\
         trap_exit on\n\
         info trap_exit\n",
    );
    // References and timers count on from whatever the node has numbered before.
    let told = told(&output.stdout);
    let counted = |line: &&str| line.starts_with("ref ") || line.starts_with("timer ");
    let lines: Vec<&str> = told.lines().filter(|line| !counted(line)).collect();
    assert!(lines[0].starts_with("down ref="), "{told}");
    assert!(lines[0].ends_with(" name=nobody reason=noproc"), "{told}");
    assert_eq!(lines[1..], ["ok", "message from=<stock@hal.I.100> \"x\"", "ok", "trap_exit  true"]);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn the_shell_outlives_its_process() {
    let daemon = Daemon::start("exit");
    let output = daemon.script(&[], "exit boom\nself\nexit normal\nself\nexit\nself\n");
    assert_eq!(
        told(&output.stdout),
        "<stock@hal.I.100> exited: boom; this shell is now <stock@hal.I.101>\n\
         <stock@hal.I.101>\n\
         <stock@hal.I.101> exited: normal; this shell is now <stock@hal.I.102>\n\
         <stock@hal.I.102>\n"
    );
}

#[test]
fn the_first_failure_ends_a_script_with_its_exit_code() {
    let daemon = Daemon::start("first");
    let output = daemon.script(&[], "self\nsend nobody 1\nfrobnicate\nself\n");
    assert_eq!(told(&output.stdout), "<stock@hal.I.100>\n");
    assert!(told(&output.stderr).starts_with("pillion: line 2: "), "{}", told(&output.stderr));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_script_that_keeps_going_still_ends_with_the_first_failure() {
    let daemon = Daemon::start("keep");
    let output = daemon.script(&["--keep-going"], "frobnicate\nsend nobody 1\nself\n");
    assert_eq!(told(&output.stdout), "<stock@hal.I.100>\n");
    assert_eq!(told(&output.stderr).lines().count(), 2);
    assert_eq!(output.status.code(), Some(64));
}

#[test]
fn with_json_each_answer_and_each_failure_is_one_line() {
    let daemon = Daemon::start("json");
    let output = daemon.script(&["--json", "-k"], "self\nsend nobody 1\nping stock\nflush\n");
    assert_eq!(
        told(&output.stdout),
        "{\"ev\":\"ok\",\"id\":2,\"pid\":\"<stock@hal.I.100>\"}\n\
         {\"code\":\"noproc\",\"ev\":\"error\",\"message\":\"no process here is registered as `nobody`\"}\n\
         {\"ev\":\"ok\",\"id\":4,\"result\":\"pong\"}\n\
         {\"ev\":\"ok\",\"id\":5,\"messages\":[]}\n"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_shell_whose_node_leaves_says_so_and_ends() {
    let mut daemon = Daemon::start("gone");
    let mut shell = daemon.shell(&[]);
    let mut stdin = shell.stdin.take().expect("its input");
    let mut stdout = BufReader::new(shell.stdout.take().expect("its output"));
    stdin.write_all(b"self\n").expect("written");
    stdout.read_line(&mut String::new()).expect("the answer");
    let pid = rustix::process::Pid::from_child(&daemon.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("sent");
    // Nobody has closed its input: it ends all the same, and does not hold the node up.
    assert_eq!(shell.wait().expect("it ends").code(), Some(69));
    let mut words = String::new();
    shell.stderr.take().expect("its errors").read_to_string(&mut words).expect("read");
    assert_eq!(words, "pillion: stock@hal is gone, and this shell with it\n");
    assert_eq!(daemon.child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn without_a_node_there_is_no_shell() {
    let output = Command::new(PILLION)
        .args(["shell", "--socket", "/tmp/pillion-there-is-none.sock"])
        .stdin(Stdio::null())
        .output()
        .expect("it ends");
    assert_eq!(output.status.code(), Some(69));
}

/// An app on the daemon's socket that answers the calls of `stock.count` and of the process `stock`.
fn answering(daemon: &Daemon) -> std::thread::JoinHandle<()> {
    let socket = daemon.directory.join("d/default/stock.sock");
    let app = std::os::unix::net::UnixStream::connect(socket).expect("a node");
    let mut app = BufReader::new(app);
    let mut lines = [
        r#"{"op":"register","name":"stock"}"#.to_owned(),
        r#"{"op":"serve","module":"stock","functions":["count"]}"#.to_owned(),
        r#"{"op":"self","id":1}"#.to_owned(),
    ]
    .join("\n");
    lines.push('\n');
    app.get_mut().write_all(lines.as_bytes()).expect("written");
    let mut line = String::new();
    app.read_line(&mut line).expect("the answer: what was asked before has been done");
    std::thread::spawn(move || {
        let mut line = String::new();
        while app.read_line(&mut line).is_ok_and(|length| length > 0) {
            let event: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            let (reference, body) = (&event["ref"], &event["body"]);
            let answer = match (event["ev"].as_str(), body.as_str()) {
                (Some("call"), Some("fail")) => {
                    format!(
                        "{{\"op\":\"raise\",\"ref\":{reference},\"class\":\"KeyError\",\"reason\":\"no\"}}\n"
                    )
                }
                (Some("call"), _) => format!(
                    "{{\"op\":\"reply\",\"ref\":{reference},\"more\":true,\"body\":\"part\"}}\n\
                     {{\"op\":\"reply\",\"ref\":{reference},\"body\":{body}}}\n"
                ),
                (Some("rpc"), _) => {
                    format!("{{\"op\":\"reply\",\"ref\":{reference},\"body\":[{body}]}}\n")
                }
                _ => String::new(),
            };
            app.get_mut().write_all(answer.as_bytes()).expect("written");
            line.clear();
        }
    })
}

#[test]
fn calls_are_answered_part_by_part_and_functions_called_where_they_are_served() {
    let daemon = Daemon::start("calls");
    let app = answering(&daemon);
    let output = daemon.script(
        &["-k"],
        "call stock [1]\n\
         rpc any stock.count\n\
         rpc stock stock.count {\"a\": 1}\n\
         cast stock anything at all\n\
         modules\n\
         call stock fail\n\
         call nobody 1\n\
         rpc any stock\n",
    );
    assert_eq!(
        told(&output.stdout),
        "\"part\"\n\
         [1]\n\
         [null]\n\
         [{\"a\":1}]\n\
         ok\n\
         MODULE  NODE       FUNCTIONS\n\
         stock   stock@hal  count\n"
    );
    let errors = told(&output.stderr);
    let errors: Vec<&str> = errors.lines().collect();
    assert!(
        errors[0].ends_with("KeyError: no (exception): it may have been carried out all the same")
    );
    assert!(errors[1].ends_with("(noproc): it was not carried out"), "{errors:?}");
    assert!(errors[2].contains("MODULE.FUNCTION"), "{errors:?}");
    assert_eq!(output.status.code(), Some(1));
    drop(daemon);
    app.join().expect("it ends with the node");
}

#[test]
fn topics_are_for_the_shell_as_for_any_process() {
    let daemon = Daemon::start("topics");
    let output = daemon.script(
        &["-k"],
        "publish shop.tea 1\n\
         subscribe shop.*\n\
         subscribe shop.tea workers\n\
         topics\n\
         subscribers shop.tea\n\
         publish shop.tea {\"left\": 3}\n\
         receive 2\n\
         unsubscribe shop.tea\n\
         unsubscribe shop.*\n\
         publish shop.tea 2\n\
         publish shop.* 2\n",
    );
    assert_eq!(
        told(&output.stdout),
        "nodes 0, here 0\n\
         ok\n\
         ok\n\
         TOPIC     HERE  NODES\n\
         shop.*    1     0\n\
         shop.tea  1     0\n\
         2\n\
         nodes 0, here 2\n\
         message from=<stock@hal.I.100> topic=shop.tea {\"left\":3}\n\
         message from=<stock@hal.I.100> topic=shop.tea {\"left\":3}\n\
         ok\n\
         ok\n\
         nodes 0, here 0\n"
    );
    assert!(told(&output.stderr).contains("wildcard"), "{}", told(&output.stderr));
}

#[test]
fn a_shell_serves_functions_and_answers_by_hand() {
    let daemon = Daemon::start("serve");
    let mut shell = daemon.shell(&[]);
    let mut stdin = shell.stdin.take().expect("its input");
    let mut lines = BufReader::new(shell.stdout.take().expect("its output")).lines();
    let mut next = || lines.next().expect("a line").expect("text");
    writeln!(stdin, "serve shop price stock").expect("it reads");
    assert_eq!(next(), "ok");
    let mut caller = Command::new(PILLION);
    caller.args(["rpc", "any", "shop.price", "\"tea\"", "--timeout", "60s"]);
    caller.env("PILLION_SOCKET", daemon.directory.join("d/default/stock.sock"));
    let caller = caller.stdout(Stdio::piped()).spawn().expect("a caller");
    writeln!(stdin, "receive 1 60s").expect("it reads");
    let asked = next();
    assert!(asked.starts_with("rpc ") && asked.contains("price"), "{asked}");
    let reference = asked.split("ref=").nth(1).expect("a ref").split(' ').next().expect("a ref");
    writeln!(stdin, "reply {reference} {{\"eur\": 3}}").expect("it reads");
    assert_eq!(told(&caller.wait_with_output().expect("it ends").stdout), "{\"eur\":3}\n");
    writeln!(stdin, "unserve shop").expect("it reads");
    drop(stdin);
    let rest: Vec<String> = lines.map(|line| line.expect("text")).collect();
    assert_eq!(rest, ["ok", "ok"]);
    assert!(shell.wait().expect("it ends").success());
    let output = daemon.script(&[], "rpc any shop.price\n");
    assert!(told(&output.stderr).contains("undef"), "{}", told(&output.stderr));
}

#[test]
fn presence_is_for_the_shell_as_for_any_process() {
    let daemon = Daemon::start("presence");
    let output = daemon.script(
        &["-k"],
        "presence room\n\
         track room ann {\"at\": \"desk\"}\n\
         track room ann\n\
         update_presence room ann at the door\n\
         track room bob\n\
         presence room\n\
         presence room bob\n\
         untrack room bob\n\
         untrack room\n\
         presence room\n",
    );
    let said = told(&output.stdout);
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<String> =
        said.lines().filter(|line| !line.starts_with("ref ")).map(words).collect();
    assert_eq!(
        lines,
        [
            "none",
            "KEY PID METADATA",
            "ann <stock@hal.I.100> at the door",
            "bob <stock@hal.I.100>",
            "KEY PID",
            "bob <stock@hal.I.100>",
            "ok",
            "ok",
            "none",
        ],
        "{said}"
    );
    assert_eq!(said.lines().count() - lines.len(), 3);
    assert!(told(&output.stderr).contains("tracked under `ann` of room already"));
}

#[test]
fn groups_and_names_of_the_mesh_are_for_the_shell_as_for_any_process() {
    let daemon = Daemon::start("groups");
    let output = daemon.script(
        &["-k"],
        "members tills\n\
         join tills\n\
         join tills\n\
         members tills\n\
         groups\n\
         leave tills\n\
         leave tills\n\
         groups\n\
         leave tills\n\
         register global:stock\n\
         whereis global:stock\n\
         whereis stock\n\
         names\n\
         names global\n\
         send global:stock 1\n\
         receive\n\
         unregister global:stock\n\
         whereis global:stock\n",
    );
    assert_eq!(
        told(&output.stdout),
        "none\n\
         ok\n\
         ok\n\
         <stock@hal.I.100>\n\
         <stock@hal.I.100>\n\
         tills\n\
         ok\n\
         ok\n\
         none\n\
         ok\n\
         <stock@hal.I.100>\n\
         none\n\
         NAME  PID\n\
         NAME   PID\n\
         stock  <stock@hal.I.100>\n\
         ok\n\
         message from=<stock@hal.I.100> 1\n\
         ok\n\
         none\n"
    );
    assert!(told(&output.stderr).contains("tills"), "{}", told(&output.stderr));
}

#[test]
fn a_store_is_used_in_the_shell_as_on_the_command_line() {
    let daemon = Daemon::start("kv");
    let script = "kv start store\nkv watch store user.\nkv set store user.ann {\"age\": 7}\n\
                  kv set store greeting --ttl 1h hello there\nkv get store greeting\nkv keys store\n\
                  kv delete store user.ann\nkv keys store user.\nkv get store user.ann\nflush\nkv stop store\n\
                  kv get store greeting\n";
    let output = daemon.script(&[], script);
    let text = String::from_utf8(output.stdout).expect("text");
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("<stock@hal."), "{text}");
    assert_eq!(
        lines[1..9],
        ["ok", "ok", "ok", "\"hello there\"", "greeting", "user.ann", "ok", "none"],
        "{text}"
    );
    assert_eq!(lines[9], "null", "{text}");
    assert!(lines[10].ends_with(r#"["set","user.ann",{"age":7}]"#), "{text}");
    assert!(lines[11].ends_with(r#"["delete","user.ann"]"#), "{text}");
    let words = String::from_utf8(output.stderr).expect("text");
    assert!(words.contains("noproc") || words.contains("registered as `store`"), "{words}");
}

#[test]
fn the_shell_reads_timers_asks_who_lives_and_lists_groups_by_how_they_begin() {
    let daemon = Daemon::start("options");
    let script = "register me\nalive me\nalive nobody\njoin room.1\njoin rook\ngroups room.\ngroups\n\
                  send_after 1h me late\nread_timer 999999\n";
    let output = daemon.script(&[], script);
    let text = String::from_utf8(output.stdout).expect("text");
    let lines: Vec<&str> = text.lines().collect();
    let expected = ["ok", "true", "false", "ok", "ok", "room.1", "rook", "room.1"];
    assert_eq!(lines[..8], expected, "{text}");
    assert!(lines[8].starts_with("timer "), "{text}");
    assert_eq!(lines[9], "none", "{text}");
}
