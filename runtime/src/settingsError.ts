/** The settings are wrong. The message is for the person who starts the program: a line for each variable. */
export class SettingsError extends Error {
  override name = 'SettingsError';
}
