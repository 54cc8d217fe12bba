//! The cookie: the secret that the nodes of a mesh share, and the file it lives in.
//!
//! A cookie is 256 random bits, not a password: what may be guessed is no key, so a short one is refused. A file holds
//! one per line (64 hex digits, or the base64 of 32 bytes; `#` starts a comment). The first signs, all verify, which is how a
//! mesh changes its cookie without an interruption. No error and no log line ever shows what a line contains.

use std::fmt::{self, Write as _};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ring::hkdf;

/// Length of the secret.
pub const COOKIE_BYTES: usize = 32;
/// Most cookies in a file: two during a rotation, and room for the forgetful.
pub const COOKIES_MAX: usize = 16;
/// Largest cookie file.
pub const COOKIE_FILE_BYTES_MAX: u64 = 64 * 1024;

/// The HKDF salt. Another version of how keys come from a cookie gets another one.
const SALT: &[u8] = b"pillion cookie 1";

/// A secret that makes nodes one mesh. Printed only by [`Cookie::reveal`].
#[derive(Clone, PartialEq, Eq)]
pub struct Cookie([u8; COOKIE_BYTES]);

/// Only where there is no file a new one may take its place.
fn advice(path: &str, source: &io::Error) -> String {
    if source.kind() == io::ErrorKind::NotFound {
        format!("`(umask 077; pillion cookie new > {path})` makes one")
    } else {
        "let this user read it, or name another with --cookie-file".to_owned()
    }
}

/// Why there is no cookie to be had. No variant carries any of the secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CookieError {
    /// The file cannot be read.
    #[error("cannot read the cookie file `{path}`: {source}; {}", advice(path, source))]
    Read {
        /// Which file.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The first cookie of this user could not be written.
    #[error(
        "cannot write a first cookie to `{path}`: {source}; name a file of your own with --cookie-file"
    )]
    Write {
        /// Where to.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The path is a directory, a device or far too large.
    #[error("`{0}` is not a cookie file: those are regular files of at most 64 KiB")]
    NotAFile(String),
    /// Others can read or change it.
    #[error(
        "the cookie file `{path}` has mode {mode:04o}, so others can read or change it: `chmod 600 {path}` (a mounted secret: mode 0440)"
    )]
    Mode {
        /// Which file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to somebody else, who then knows the cookie.
    #[error(
        "the cookie file `{path}` belongs to uid {uid}: `chown` it to yourself, or make your own"
    )]
    Owner {
        /// Which file.
        path: String,
        /// Whose it is.
        uid: u32,
    },
    /// A line is not a cookie.
    #[error(
        "line {line} of {origin} is not a cookie: too short to be a key, or not 64 hex digits; `pillion cookie new > FILE` makes a good one"
    )]
    NotACookie {
        /// Where it was read from.
        origin: String,
        /// Counted from 1.
        line: usize,
    },
    /// There is no cookie in it.
    #[error("there is no cookie in {0}; `pillion cookie new > FILE` makes one")]
    Empty(String),
    /// More than [`COOKIES_MAX`].
    #[error("there are more than 16 cookies in {0}: keep the one in use and the next")]
    TooMany(String),
    /// The system gave no randomness.
    #[error("the system has no randomness for a cookie")]
    Random,
}

impl Cookie {
    /// A new one.
    ///
    /// # Errors
    /// [`CookieError::Random`].
    pub fn random() -> Result<Self, CookieError> {
        let mut bytes = [0; COOKIE_BYTES];
        getrandom::fill(&mut bytes).map_err(|_| CookieError::Random)?;
        Ok(Self(bytes))
    }

    /// The cookie that is these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; COOKIE_BYTES]) -> Self {
        Self(bytes)
    }

    /// The secret as text, for `pillion cookie new` and for the file.
    #[must_use]
    pub fn reveal(&self) -> String {
        hex(&self.0)
    }

    /// Reads one cookie; `None` when it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        unhex(text).or_else(|| unbase64(text)).map(Self)
    }

    /// Reads cookies, one per line. `origin` is for errors: a path in backticks, a flag, a variable.
    ///
    /// # Errors
    /// [`CookieError::NotACookie`], [`CookieError::Empty`], [`CookieError::TooMany`].
    pub fn parse_lines(text: &str, origin: &str) -> Result<Vec<Self>, CookieError> {
        let mut cookies = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line_text = line.split('#').next().unwrap_or_default().trim();
            if line_text.is_empty() {
                continue;
            }
            let cookie = Self::parse(line_text).ok_or_else(|| CookieError::NotACookie {
                origin: origin.to_owned(),
                line: index + 1,
            })?;
            if cookies.len() == COOKIES_MAX {
                return Err(CookieError::TooMany(origin.to_owned()));
            }
            if !cookies.contains(&cookie) {
                cookies.push(cookie);
            }
        }
        if cookies.is_empty() { Err(CookieError::Empty(origin.to_owned())) } else { Ok(cookies) }
    }

    /// 8 bytes that tell holders of this cookie that a node of `mesh` holds it too, and tell others nothing.
    #[must_use]
    pub fn id(&self, mesh: &str) -> [u8; 8] {
        let derived = self.derive("id", mesh);
        std::array::from_fn(|i| derived[i])
    }

    /// What the nodes of `mesh` seal with where there is no connection. It opens nothing else, and nothing that is told of
    /// it tells the cookie.
    #[must_use]
    pub fn gossip_key(&self, mesh: &str) -> [u8; 32] {
        self.derive("gossip", mesh)
    }

    /// 32 bytes for one purpose and one mesh: HKDF-SHA256 (RFC 5869), the purpose and the mesh being the info. A NUL
    /// ends the purpose, so that no two pairs are one text.
    pub(super) fn derive(&self, purpose: &str, mesh: &str) -> [u8; 32] {
        let mut out = [0; 32];
        hkdf::Salt::new(hkdf::HKDF_SHA256, SALT)
            .extract(&self.0)
            .expand(&[purpose.as_bytes(), b"\0", mesh.as_bytes()], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut out))
            .expect("32 bytes are one block of HKDF-SHA256");
        out
    }
}

impl fmt::Debug for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cookie(secret)")
    }
}

/// Where a user's cookie is when nobody says otherwise.
#[must_use]
pub fn default_path(home: &Path) -> PathBuf {
    home.join(".config/pillion/cookie")
}

/// Reads a cookie file, whose permissions must keep it secret.
///
/// # Errors
/// [`CookieError`].
pub fn read(path: &Path) -> Result<Vec<Cookie>, CookieError> {
    let name = || path.display().to_string();
    let failed = |source| CookieError::Read { path: name(), source };
    // Opening a fifo for reading would wait for a writer, so the kind is looked at first; what counts is the kind, the
    // owner and the mode of what was opened.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(CookieError::NotAFile(name()));
    }
    let file = File::open(path).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    if !about.is_file() || about.len() > COOKIE_FILE_BYTES_MAX {
        return Err(CookieError::NotAFile(name()));
    }
    check_access(path, about.mode(), about.uid(), rustix::process::geteuid().as_raw())?;
    let mut text = String::new();
    file.take(COOKIE_FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    Cookie::parse_lines(&text, &format!("`{}`", path.display()))
}

fn check_access(path: &Path, mode: u32, owner: u32, me: u32) -> Result<(), CookieError> {
    let mode = mode & 0o7777;
    if mode & 0o027 != 0 {
        return Err(CookieError::Mode { path: path.display().to_string(), mode });
    }
    // Root may read what it likes, and may be trusted with what it gives.
    if owner != me && owner != 0 && me != 0 {
        return Err(CookieError::Owner { path: path.display().to_string(), uid: owner });
    }
    // Readable by its group is how Kubernetes mounts a secret for a user who is not root.
    if mode & 0o040 != 0 && owner != 0 {
        tracing::warn!(
            "the group of the cookie file `{}` can read it: all of them can be any node of the mesh",
            path.display()
        );
    }
    Ok(())
}

/// Reads a cookie file; writes a new cookie there first when there is none.
///
/// Several nodes may start for the first time at once: the new file is linked into place whole, one wins, all read its.
///
/// # Errors
/// [`CookieError`].
pub fn read_or_create(path: &Path) -> Result<Vec<Cookie>, CookieError> {
    match read(path) {
        Err(CookieError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        read => return read,
    }
    let cookie = Cookie::random()?;
    create(path, &cookie)
        .map_err(|source| CookieError::Write { path: path.display().to_string(), source })?;
    read(path)
}

/// Puts a cookie file in place unless there is one.
fn create(path: &Path, cookie: &Cookie) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mut suffix = [0; 8];
    getrandom::fill(&mut suffix).map_err(|_| io::Error::other("no randomness"))?;
    let temporary = directory.join(format!(".cookie.{}", hex(&suffix)));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let linked = writeln!(
        file,
        "# The cookie of a Pillion mesh. It is a secret: whoever has it can be any node of the mesh.\n\
         # One per line; the first signs, all verify. `pillion cookie new` prints another.\n{}",
        cookie.reveal()
    )
    .and_then(|()| file.sync_all())
    .and_then(|()| fs::hard_link(&temporary, path));
    fs::remove_file(&temporary)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Bytes as lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<[u8; COOKIE_BYTES]> {
    if text.len() != COOKIE_BYTES * 2 {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut bytes = [0; COOKIE_BYTES];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// Strict base64 (RFC 4648 section 4) of exactly 32 bytes: 43 characters and perhaps one `=`, the unused bits zero.
fn unbase64(text: &str) -> Option<[u8; COOKIE_BYTES]> {
    let digits = text.strip_suffix('=').unwrap_or(text).as_bytes();
    if digits.len() != 43 {
        return None;
    }
    let mut bytes = [0; COOKIE_BYTES];
    let mut filled = 0;
    let (mut bits, mut count) = (0_u32, 0);
    for digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes[filled] = u8::try_from((bits >> count) & 0xff).ok()?;
            filled += 1;
            bits &= (1 << count) - 1;
        }
    }
    (bits == 0).then_some(bytes)
}

#[cfg(test)]
mod tests;
