/** The straight port of the Go original: express, a pool, one INSERT a request. */
import express from 'express';
import pg from 'pg';

const INSERT = 'INSERT INTO signals ("timestamp", signal_name, signal_value) VALUES ($1, $2, $3)';
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL });
const app = express();

app.post('/ingest', async (_request, response) => {
  const signal = { timestamp: new Date(), signal_name: 'test_signal', signal_value: Math.random() };
  await pool.query(INSERT, Object.values(signal));
  response.json(signal);
});

app.listen(Number(process.env.PORT), '127.0.0.1');
