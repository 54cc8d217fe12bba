//! Cookies: what is one, what is refused, and how the first is made.

use std::sync::Barrier;
use std::thread;

use super::super::scratch::Scratch;
use super::*;

const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const BASE64: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

#[test]
fn a_cookie_reads_as_it_was_revealed() {
    let cookie = Cookie::random().unwrap();
    assert_eq!(Cookie::parse(&cookie.reveal()).unwrap(), cookie);
    assert_ne!(Cookie::random().unwrap(), cookie);
}

#[test]
fn hex_and_base64_are_the_same_cookie() {
    let cookie = Cookie::parse(HEX).unwrap();
    assert_eq!(cookie, Cookie::from_bytes(std::array::from_fn(|i| u8::try_from(i).unwrap())));
    assert_eq!(Cookie::parse(&HEX.to_uppercase()).unwrap(), cookie);
    assert_eq!(Cookie::parse(BASE64).unwrap(), cookie);
    assert_eq!(Cookie::parse(BASE64.trim_end_matches('=')).unwrap(), cookie);
}

#[test]
fn what_is_too_short_to_be_a_key_is_refused_with_the_command_that_makes_one() {
    for weak in [
        "secret",
        &HEX[..62],
        &BASE64[..42],
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9=", // Unused bits that are set.
        "g00102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        "+00102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        "ü00102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1",
    ] {
        let error = Cookie::parse_lines(&format!("\n{weak}"), "--cookie").unwrap_err().to_string();
        assert!(error.starts_with("line 2 of --cookie is not a cookie"), "{error}");
        assert!(error.contains("pillion cookie new > FILE"), "{error}");
        assert!(!error.contains(weak), "an error must not show what may be a secret: {error}");
    }
}

#[test]
fn a_file_holds_one_cookie_per_line_with_comments() {
    let second = Cookie::random().unwrap();
    let text = format!("# ours\n\n  {HEX} # since May\r\n{}\n{HEX}\n", second.reveal());
    let cookies = Cookie::parse_lines(&text, "here").unwrap();
    assert_eq!(cookies, [Cookie::parse(HEX).unwrap(), second]);
    assert!(matches!(Cookie::parse_lines("# none\n", "here"), Err(CookieError::Empty(_))));
}

#[test]
fn a_file_of_too_many_cookies_is_refused() {
    let many: String =
        (0..=COOKIES_MAX).map(|_| Cookie::random().unwrap().reveal() + "\n").collect();
    assert!(matches!(Cookie::parse_lines(&many, "here"), Err(CookieError::TooMany(_))));
}

#[test]
fn a_cookie_never_shows_in_debug_output() {
    let cookie = Cookie::parse(HEX).unwrap();
    assert_eq!(format!("{cookie:?}"), "Cookie(secret)");
}

#[test]
fn what_is_derived_stays_what_it_is() {
    // Computed with another HKDF; other values here would part the meshes of two versions.
    let cookie = Cookie::parse(HEX).unwrap();
    assert_eq!(hex(&cookie.id("default")), "0061662010f6956f");
    assert_eq!(
        hex(&cookie.derive("authority", "default")),
        "8820db7533ad481827131839aece1cbe9e1b9c5934df513c70600f9aaf05a25b"
    );
}

#[test]
fn ids_of_other_meshes_and_other_cookies_differ() {
    let cookie = Cookie::parse(HEX).unwrap();
    assert_ne!(cookie.id("default"), cookie.id("staging"));
    assert_ne!(cookie.id("default"), Cookie::random().unwrap().id("default"));
    assert_ne!(cookie.derive("id", "x"), cookie.derive("authority", "x"));
}

#[test]
fn three_first_starts_agree_on_one_cookie() {
    for _ in 0..20 {
        let scratch = Scratch::new();
        let path = default_path(&scratch.path);
        let together = Barrier::new(3);
        let cookies = thread::scope(|scope| {
            let starts = [(); 3].map(|()| {
                scope.spawn(|| {
                    together.wait();
                    read_or_create(&path).unwrap()
                })
            });
            starts.map(|start| start.join().unwrap())
        });
        assert_eq!(cookies[0].len(), 1);
        assert!(cookies.iter().all(|c| *c == cookies[0]));

        let directory = path.parent().unwrap();
        let left: Vec<_> =
            fs::read_dir(directory).unwrap().map(|f| f.unwrap().file_name()).collect();
        assert_eq!(left, ["cookie"], "no temporary file may stay");
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(directory), mode(&path)), (0o700, 0o600));
    }
}

#[test]
fn a_later_start_reads_the_same_cookie() {
    let scratch = Scratch::new();
    let path = default_path(&scratch.path);
    assert_eq!(read_or_create(&path).unwrap(), read_or_create(&path).unwrap());
}

#[test]
fn a_file_that_others_can_read_or_change_is_refused_with_the_chmod_that_mends_it() {
    let scratch = Scratch::new();
    for mode in [0o644, 0o604, 0o660, 0o620, 0o602, 0o601] {
        let path = scratch.cookie(HEX, mode);
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("mode {mode:04o}")), "{error}");
        assert!(error.contains(&format!("`chmod 600 {}`", path.display())), "{error}");
    }
    for mode in [0o600, 0o400, 0o440, 0o640] {
        assert_eq!(read(&scratch.cookie(HEX, mode)).unwrap().len(), 1, "mode {mode:o}");
    }
}

#[test]
fn a_file_of_somebody_else_is_refused_unless_root_gave_it() {
    let check = |owner, me| check_access(Path::new("/cookie"), 0o600, owner, me);
    assert!(check(1000, 1000).is_ok());
    assert!(check(0, 1000).is_ok());
    assert!(check(1000, 0).is_ok());
    assert!(matches!(check(1001, 1000), Err(CookieError::Owner { uid: 1001, .. })));
}

#[test]
fn a_file_that_is_not_there_is_named_with_the_command_that_makes_it() {
    let scratch = Scratch::new();
    let error = read(&scratch.path.join("none")).unwrap_err().to_string();
    assert!(error.contains("(umask 077; pillion cookie new > "), "{error}");
    // What is there and cannot be read is not to be written over.
    let denied = CookieError::Read {
        path: "cookie".to_owned(),
        source: std::io::ErrorKind::PermissionDenied.into(),
    };
    assert!(!denied.to_string().contains("cookie new"), "{denied}");
    assert!(matches!(read(&scratch.path), Err(CookieError::NotAFile(_))));
    assert!(matches!(read(Path::new("/dev/zero")), Err(CookieError::NotAFile(_))));
}

#[test]
fn a_huge_file_is_refused_unread() {
    let scratch = Scratch::new();
    let path = scratch.cookie("", 0o600);
    OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
    assert!(matches!(read(&path), Err(CookieError::NotAFile(_))));
}

#[test]
fn a_bad_file_is_never_replaced_by_a_new_cookie() {
    let scratch = Scratch::new();
    let path = scratch.cookie("secret\n", 0o600);
    assert!(matches!(read_or_create(&path), Err(CookieError::NotACookie { line: 1, .. })));
    assert_eq!(fs::read_to_string(&path).unwrap(), "secret\n");
}
