//! Users, and what lets them in.

use lava_event::Sha256;
use rusqlite::{OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Store, now, shown};

/// A login ends after this, seconds.
const LOGIN: i64 = 12 * 3600;
/// Logins and links of one user at a time; the oldest go.
const MAX_OF_USER: i64 = 64;

/// What a user may do. Each may do what those before it may.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look at everything.
    Viewer,
    /// Start tasks, answer attacks.
    Analyst,
    /// Users, tokens, the audit log.
    Admin,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Analyst, Self::Admin];

    /// As in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Analyst => "analyst",
            Self::Admin => "admin",
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// A user.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct User {
    /// Number in the store.
    #[serde(skip)]
    pub id: i64,
    /// Name.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// RFC 3339.
    pub created: String,
    /// Whether they can log in by password.
    pub has_password: bool,
    #[serde(skip)]
    password: Option<String>,
}

impl User {
    /// Their password's argon2 hash.
    #[must_use]
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }
}

/// What a cookie stands for.
pub struct Login {
    /// Who.
    pub user: User,
    /// What changing requests carry beside the cookie.
    pub csrf: String,
}

/// An API token, without itself.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenFacts {
    /// Number, to remove it.
    pub id: i64,
    /// Whose.
    pub user: String,
    /// What it is for, in its maker's words.
    pub name: String,
    /// RFC 3339.
    pub created: String,
    /// RFC 3339; null if never.
    pub used: Option<String>,
}

/// A new API token.
#[derive(Debug, Serialize, ToSchema)]
pub struct NewToken {
    /// Number, to remove it.
    pub id: i64,
    /// The token. It is shown this once.
    pub token: String,
}

const USER: &str = "users.id, users.name, users.role, users.created, users.password";

fn user(row: &Row<'_>) -> rusqlite::Result<User> {
    let role: String = row.get(2)?;
    let password: Option<String> = row.get(4)?;
    Ok(User {
        id: row.get(0)?,
        name: row.get(1)?,
        // A word that is none gives the least.
        role: Role::named(&role).unwrap_or(Role::Viewer),
        created: shown(row.get(3)?),
        has_password: password.is_some(),
        password,
    })
}

/// 256 random bits, as hex digits.
fn secret() -> rusqlite::Result<String> {
    let mut bytes = [0u8; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        let got = rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty());
        filled +=
            got.map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(std::io::Error::from(error))))?;
    }
    Ok(Sha256(bytes).to_string())
}

fn hash(secret: &str) -> [u8; 32] {
    Sha256::of(secret.as_bytes()).0
}

impl Store {
    /// All users, by name.
    ///
    /// # Errors
    /// As SQLite says; so for all of these.
    pub fn users(&self) -> rusqlite::Result<Vec<User>> {
        let db = self.db();
        let mut all = db.prepare_cached(&format!("SELECT {USER} FROM users ORDER BY name"))?;
        all.query_map([], user)?.collect()
    }

    /// The user of this name.
    ///
    /// # Errors
    /// As above.
    pub fn user(&self, name: &str) -> rusqlite::Result<Option<User>> {
        let db = self.db();
        let mut one = db.prepare_cached(&format!("SELECT {USER} FROM users WHERE name = ?1"))?;
        one.query_row([name], user).optional()
    }

    /// Adds a user, or gives an existing one another role and password (`None` keeps it). Who changes is logged out.
    ///
    /// # Errors
    /// As above.
    pub fn put_user(&self, name: &str, role: Role, password: Option<&str>) -> rusqlite::Result<()> {
        let mut db = self.db();
        let change = db.transaction()?;
        change.execute(
            "INSERT INTO users (name, role, password, created) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (name) DO UPDATE SET role = ?2, password = coalesce(?3, password)",
            params![name, role.name(), password, now()],
        )?;
        change.execute("DELETE FROM logins WHERE user = (SELECT id FROM users WHERE name = ?1)", [name])?;
        change.commit()
    }

    /// Removes a user with their logins and tokens; false if there is none.
    ///
    /// # Errors
    /// As above.
    pub fn remove_user(&self, name: &str) -> rusqlite::Result<bool> {
        Ok(self.db().execute("DELETE FROM users WHERE name = ?1", [name])? > 0)
    }

    /// Makes a link that lets a user in once, for so many seconds from now.
    ///
    /// # Errors
    /// As above.
    pub fn make_link(&self, user: &User, seconds: i64) -> rusqlite::Result<String> {
        let secret = secret()?;
        let db = self.db();
        db.execute("DELETE FROM links WHERE expires <= ?1", [now()])?;
        db.execute("INSERT INTO links VALUES (?1, ?2, ?3)", params![hash(&secret), user.id, now() + seconds])?;
        Ok(secret)
    }

    /// Takes a link: whom it lets in. It works once.
    ///
    /// # Errors
    /// As above.
    pub fn take_link(&self, secret: &str) -> rusqlite::Result<Option<User>> {
        let db = self.db();
        let taken: Option<(i64, i64)> = db
            .query_row("DELETE FROM links WHERE hash = ?1 RETURNING user, expires", [hash(secret)], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?;
        let Some((id, _)) = taken.filter(|(_, expires)| *expires > now()) else { return Ok(None) };
        db.query_row(&format!("SELECT {USER} FROM users WHERE id = ?1"), [id], user).optional()
    }

    /// Logs a user in: the cookie's value.
    ///
    /// # Errors
    /// As above.
    pub fn log_in(&self, user: &User) -> rusqlite::Result<String> {
        let (cookie, csrf) = (secret()?, secret()?);
        let db = self.db();
        db.execute("DELETE FROM logins WHERE expires <= ?1", [now()])?;
        db.execute(
            "DELETE FROM logins WHERE user = ?1 AND hash NOT IN
             (SELECT hash FROM logins WHERE user = ?1 ORDER BY created DESC, hash LIMIT ?2)",
            params![user.id, MAX_OF_USER],
        )?;
        db.execute(
            "INSERT INTO logins VALUES (?1, ?2, ?3, ?4, ?5)",
            params![hash(&cookie), user.id, csrf, now(), now() + LOGIN],
        )?;
        Ok(cookie)
    }

    /// What this cookie stands for, if it does.
    ///
    /// # Errors
    /// As above.
    pub fn login(&self, cookie: &str) -> rusqlite::Result<Option<Login>> {
        let db = self.db();
        let mut one = db.prepare_cached(&format!(
            "SELECT {USER}, logins.csrf FROM logins JOIN users ON users.id = logins.user
             WHERE logins.hash = ?1 AND logins.expires > ?2"
        ))?;
        one.query_row(params![hash(cookie), now()], |row| Ok(Login { user: user(row)?, csrf: row.get(5)? })).optional()
    }

    /// Ends what this cookie stands for.
    ///
    /// # Errors
    /// As above.
    pub fn log_out(&self, cookie: &str) -> rusqlite::Result<()> {
        self.db().execute("DELETE FROM logins WHERE hash = ?1", [hash(cookie)]).map(drop)
    }

    /// Makes an API token.
    ///
    /// # Errors
    /// As above.
    pub fn make_token(&self, user: &User, name: &str) -> rusqlite::Result<NewToken> {
        let token = format!("lava_{}", secret()?);
        let db = self.db();
        db.execute(
            "INSERT INTO tokens (hash, user, name, created) VALUES (?1, ?2, ?3, ?4)",
            params![hash(&token), user.id, name, now()],
        )?;
        Ok(NewToken { id: db.last_insert_rowid(), token })
    }

    /// Whom this API token stands for, if it does.
    ///
    /// # Errors
    /// As above.
    pub fn token(&self, token: &str) -> rusqlite::Result<Option<User>> {
        let db = self.db();
        let mut one = db.prepare_cached(&format!(
            "SELECT {USER} FROM tokens JOIN users ON users.id = tokens.user WHERE tokens.hash = ?1"
        ))?;
        let found = one.query_row([hash(token)], user).optional()?;
        if found.is_some() {
            // Once a minute is enough to know whether it is in use.
            let mut used =
                db.prepare_cached("UPDATE tokens SET used = ?2 WHERE hash = ?1 AND coalesce(used, 0) < ?2 - 60")?;
            used.execute(params![hash(token), now()])?;
        }
        Ok(found)
    }

    /// All API tokens, or those of one user.
    ///
    /// # Errors
    /// As above.
    pub fn tokens(&self, of: Option<&User>) -> rusqlite::Result<Vec<TokenFacts>> {
        let db = self.db();
        let mut all = db.prepare_cached(
            "SELECT tokens.id, users.name, tokens.name, tokens.created, tokens.used
             FROM tokens JOIN users ON users.id = tokens.user WHERE ?1 IS NULL OR tokens.user = ?1 ORDER BY tokens.id",
        )?;
        all.query_map([of.map(|user| user.id)], |row| {
            let used: Option<i64> = row.get(4)?;
            Ok(TokenFacts {
                id: row.get(0)?,
                user: row.get(1)?,
                name: row.get(2)?,
                created: shown(row.get(3)?),
                used: used.map(shown),
            })
        })?
        .collect()
    }

    /// Removes an API token, of that user if one is named; false if there is none.
    ///
    /// # Errors
    /// As above.
    pub fn remove_token(&self, id: i64, of: Option<&User>) -> rusqlite::Result<bool> {
        let of = of.map(|user| user.id);
        Ok(self.db().execute("DELETE FROM tokens WHERE id = ?1 AND (?2 IS NULL OR user = ?2)", params![id, of])? > 0)
    }
}
