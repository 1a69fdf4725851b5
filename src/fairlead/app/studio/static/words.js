// Numbers as a person reads them: the same rules as app/words.py.

export function number(value, sign = false) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  let text;
  if (size >= 1e7 || (size > 0 && size < 0.0005)) text = size.toExponential(2).replace(/e([+-])(\d)$/, "e$10$2");
  else {
    const decimals = 4 - [1, 10, 100, 1000].filter((bound) => size >= bound).length;
    text = size.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
  }
  if (value < 0) return "−" + text;
  return sign && value > 0 ? "+" + text : text;
}

export function count(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return number(value);
  if (Math.abs(value) > 0 && Math.abs(value) < 0.1) return number(value);
  const digits = Number.isInteger(value) || value >= 1000 ? 0 : 2;
  return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  if (seconds < 0.095) return `${Math.max(0, seconds).toFixed(2)} s`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const two = (n) => String(n).padStart(2, "0");
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
}

export function ago(created) {
  const seconds = (Date.now() - Date.parse(created)) / 1000;
  if (!Number.isFinite(seconds)) return "";
  const steps = [[60, 1, "just now"], [3600, 60, "min"], [86400, 3600, "h"], [Infinity, 86400, "d"]];
  const [, unit, word] = steps.find(([bound]) => seconds < bound);
  return unit === 1 ? word : `${Math.floor(seconds / unit)} ${word} ago`;
}

export const amount = (name, value) => (name === "seconds" ? duration(value) : count(value));
export const resource = (name) => (name === "nfe" ? "NFE" : name);
