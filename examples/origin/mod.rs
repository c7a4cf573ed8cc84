//! The origin of the examples: a shop in an SQLite file, 10,000 products with 100,000 reviews.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

/// How many products there are; their ids are 1 to this.
pub(crate) const PRODUCTS: u64 = 10_000;
/// Reviews, ten of each product.
pub(crate) const REVIEWS: u64 = 100_000;

/// Queries that run at once: as a pool of a database server, small.
const CONNECTIONS: usize = 8;

/// What a page of the shop shows. Its numbers come from a query over two tables.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Product {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) price_cents: u64,
    /// Grows by one with each change of the row.
    pub(crate) version: u64,
    pub(crate) reviews: u64,
    pub(crate) stars: f64,
    pub(crate) latest: Vec<String>,
}

/// What a query can fail with.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// The shop's database. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Origin(Arc<Pool>);

struct Pool {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    places: Semaphore,
    queries: AtomicU64,
    longer: Duration,
}

impl Origin {
    /// Opens the file, and fills it first if it is missing. Each query takes `longer` than SQLite does: not work,
    /// but what a network would add.
    pub(crate) fn open(path: &Path, longer: Duration) -> Result<Self, Failure> {
        if !path.exists() {
            // Beside it and under another name: nobody opens half a shop.
            let fresh = path.with_extension(format!("new-{}", std::process::id()));
            fill(&fresh)?;
            std::fs::rename(&fresh, path)?;
        }
        Ok(Self(Arc::new(Pool {
            path: path.to_owned(),
            idle: Mutex::default(),
            places: Semaphore::new(CONNECTIONS),
            queries: AtomicU64::new(0),
            longer,
        })))
    }

    /// A product, if there is one.
    pub(crate) async fn find(&self, id: u64) -> Result<Option<Product>, Failure> {
        self.0.queries.fetch_add(1, Ordering::Relaxed);
        self.run(move |db| {
            let mut product = db.prepare_cached(
                "SELECT name, price_cents, version,
                        (SELECT COUNT(*) FROM reviews WHERE product = products.id),
                        (SELECT AVG(stars) FROM reviews WHERE product = products.id)
                   FROM products WHERE id = ?1",
            )?;
            let found = product
                .query_row([id], |row| {
                    Ok(Product {
                        id,
                        name: row.get(0)?,
                        price_cents: row.get(1)?,
                        version: row.get(2)?,
                        reviews: row.get(3)?,
                        stars: row.get(4)?,
                        latest: Vec::new(),
                    })
                })
                .optional()?;
            let Some(mut found) = found else { return Ok(None) };
            let mut latest = db.prepare_cached(
                "SELECT text FROM reviews WHERE product = ?1 ORDER BY id DESC LIMIT 3",
            )?;
            found.latest = latest.query_map([id], |row| row.get(0))?.collect::<Result<_, _>>()?;
            Ok(Some(found))
        })
        .await
    }

    /// Gives a product another price. Answers the row's new version, or nothing if there is no such product.
    pub(crate) async fn set_price(&self, id: u64, cents: u64) -> Result<Option<u64>, Failure> {
        self.run(move |db| {
            let mut change = db.prepare_cached(
                "UPDATE products SET price_cents = ?2, version = version + 1
                  WHERE id = ?1 RETURNING version",
            )?;
            change.query_row([id, cents], |row| row.get(0)).optional()
        })
        .await
    }

    /// How many times [`find`](Self::find) was called in this process.
    pub(crate) fn queries(&self) -> u64 {
        self.0.queries.load(Ordering::Relaxed)
    }

    /// Runs a query on a thread that may block.
    async fn run<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let pool = Arc::clone(&self.0);
        let _place = self.0.places.acquire().await?;
        if !self.0.longer.is_zero() {
            tokio::time::sleep(self.0.longer).await;
        }
        let done = tokio::task::spawn_blocking(move || {
            let idle = || pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let kept = idle().pop();
            let db = kept.map_or_else(|| connect(&pool.path), Ok)?;
            let done = query(&db);
            idle().push(db);
            done
        });
        Ok(done.await??)
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(Duration::from_secs(5))?;
    db.pragma_update(None, "synchronous", "NORMAL")?;
    Ok(db)
}

fn fill(path: &Path) -> rusqlite::Result<()> {
    let mut db = Connection::open(path)?;
    let transaction = db.transaction()?;
    transaction.execute_batch(
        "CREATE TABLE products (
             id INTEGER PRIMARY KEY, name TEXT NOT NULL,
             price_cents INTEGER NOT NULL, version INTEGER NOT NULL DEFAULT 1);
         CREATE TABLE reviews (
             id INTEGER PRIMARY KEY, product INTEGER NOT NULL REFERENCES products,
             stars INTEGER NOT NULL, text TEXT NOT NULL);",
    )?;
    {
        let mut product = transaction
            .prepare("INSERT INTO products (id, name, price_cents) VALUES (?1, ?2, ?3)")?;
        for id in 1..=PRODUCTS {
            product.execute(params![id, format!("Product {id}"), 100 + id * 37 % 90_000])?;
        }
        let mut review = transaction
            .prepare("INSERT INTO reviews (product, stars, text) VALUES (?1, ?2, ?3)")?;
        for number in 0..REVIEWS {
            let (id, stars) = (number % PRODUCTS + 1, number * 31 % 5 + 1);
            let text = format!("Review {number}: {stars} of 5, and I would buy it again.");
            review.execute(params![id, stars, text])?;
        }
    }
    transaction.execute("CREATE INDEX reviews_by_product ON reviews (product)", [])?;
    transaction.commit()?;
    // Readers do not wait for writers then, in other processes neither. The file remembers it.
    db.pragma_update(None, "journal_mode", "WAL")
}
